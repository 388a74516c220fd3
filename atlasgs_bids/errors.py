"""The errors that a user may meet: each says what was seen, what was expected, and the remedy."""

import errno
from collections.abc import Sequence


class AtlasgsError(Exception):
    """Base of every error that AtlasGS raises on purpose."""


class InputError(AtlasgsError):
    """Input data that cannot be processed as they are."""


class SessionHeldError(InputError):
    """A session that another process works on."""


class ConfigurationError(AtlasgsError):
    """A setting, or a combination of settings, that cannot be honoured (exit code 2)."""


class DeviceMemoryError(AtlasgsError):
    """A device has too little memory even for the smallest chunks."""


class AttemptError(Exception):
    """The traceback of another error, as text: the cause of one that is raised when that one is gone."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


_MOST_CHARACTERS = 200
"""Of a library's error on one line; the crash file has all of it."""
_MOST_LISTED, _MOST_CHARACTERS_LISTED = 5, 120
"""In the last line of a run."""


def error_text(error: Exception) -> str:
    """One line that tells a user of a failure: our own errors speak for themselves, others are named.

    >>> error_text(InputError("no T1w")), error_text(KeyError("x"))
    ('no T1w', "KeyError: 'x'")
    >>> error_text(RuntimeError("CUDA error: no device\\nFor debugging consider CUDA_LAUNCH_BLOCKING=1"))
    'RuntimeError: CUDA error: no device'
    """
    if isinstance(error, AtlasgsError):
        return " ".join(str(error).split())  # whole, for it ends with the remedy
    said = first_statement(str(error))
    text = shortened(f"{type(error).__name__}: {said}" if said else type(error).__name__, _MOST_CHARACTERS)
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        text += "; free some space and run again: what was finished stays, the rest is done"
    return text


def first_statement(text: str) -> str:
    """The first line that says something, with the next one where it ends in a colon; advice is left out.

    >>> first_statement("\\nException thrown in Execute: /build/Image.cxx:99:\\n  no such file\\nat 0x1")
    'Exception thrown in Execute: /build/Image.cxx:99: no such file'
    """
    statement = ""
    for line in text.splitlines():
        statement = f"{statement} {' '.join(line.split())}".strip()
        if statement and not statement.endswith(":"):
            break
    return statement


def shortened(text: str, most: int) -> str:
    """The text on one line of at most ``most`` characters, cut between words.

    >>> shortened("out of  memory,\\nas it seems", 18)
    'out of memory, as…'
    """
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    whole_words, space, _ = text[:most].rpartition(" ")
    # A path may be one long word.
    return (whole_words if space and len(whole_words) > most // 2 else text[: most - 1]) + "…"


def listed(items: Sequence[str], separator: str = ", ") -> str:
    """The first five, each of them short, and how many more there are.

    >>> listed([f"sub-{number}" for number in range(9)])
    'sub-0, sub-1, sub-2, sub-3, sub-4, and 4 more'
    """
    named = [shortened(item, _MOST_CHARACTERS_LISTED) for item in items[:_MOST_LISTED]]
    more = len(items) - len(named)
    return separator.join([*named, *([f"and {more} more"] if more else [])])
