"""The errors that a user may meet: each says what was seen, what was expected, and the remedy."""


class AtlasgsError(Exception):
    """Base of every error that AtlasGS raises on purpose."""


class InputError(AtlasgsError):
    """Input data that cannot be processed as they are."""


class ConfigurationError(AtlasgsError):
    """A setting, or a combination of settings, that cannot be honoured (exit code 2)."""
