"""The errors that a user may meet: each says what was seen, what was expected, and the remedy."""

import errno


class AtlasgsError(Exception):
    """Base of every error that AtlasGS raises on purpose."""


class InputError(AtlasgsError):
    """Input data that cannot be processed as they are."""


class ConfigurationError(AtlasgsError):
    """A setting, or a combination of settings, that cannot be honoured (exit code 2)."""


class DeviceMemoryError(AtlasgsError):
    """A device has too little memory even for the smallest chunks."""


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def error_text(error: Exception) -> str:
    """What a user is told of a failure: our own errors speak for themselves, others are named.

    >>> error_text(InputError("no T1w")), error_text(KeyError("x"))
    ('no T1w', "KeyError: 'x'")
    """
    if isinstance(error, AtlasgsError):
        return str(error)
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        text += "; free some space and run again: what was finished stays, the rest is done"
    return text
