"""The errors that a user may meet: each says what was seen, what was expected, and the remedy."""


class AtlasgsError(Exception):
    """Base of every error that AtlasGS raises on purpose."""


class InputError(AtlasgsError):
    """Input data that cannot be processed as they are."""


class ConfigurationError(AtlasgsError):
    """A setting, or a combination of settings, that cannot be honoured (exit code 2)."""


def error_text(error: Exception) -> str:
    """What a user is told of a failure: our own errors speak for themselves, others are named.

    >>> error_text(InputError("no T1w")), error_text(KeyError("x"))
    ('no T1w', "KeyError: 'x'")
    """
    return str(error) if isinstance(error, AtlasgsError) else f"{type(error).__name__}: {error}"
