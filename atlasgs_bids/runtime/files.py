"""Atomic writes: a file is either whole under its name or absent. Text and tables as others wrote them."""

import codecs
import errno
import hashlib
import json
import math
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from atlasgs_bids.errors import InputError
from atlasgs_bids.runtime.extensions import split_extension

TEMPORARY = re.compile(
    r"\.tmp-(?P<host>[0-9a-f]{8}\.\d+)-(?P<pid>\d+)-[0-9a-f]{8}-(?P<session>[0-9a-f]{8})(\..+)?"
)
"""Of bounded length, whatever the host and the final name are called."""
LONGEST_TEMPORARY = 80
"""Bytes, with room to spare."""
_SESSION = re.compile(r"sub-[^_.]+(_ses-[^_.]+)?")
_STALE_AFTER_S = 48 * 3600
_NOTHING = object()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` with the same extension, renamed to it when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The final name may be as long as names can be, so it cannot be a part of this one.
    name = f".tmp-{_here()}-{os.getpid()}-{secrets.token_hex(4)}-{session_mark(path.name)}"
    temporary = path.with_name(name + split_extension(path.name)[1])
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _here() -> str:
    """Where a process number means something: the host, and the container that has numbers of its own."""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        namespace = 0
    return f"{_mark(socket.gethostname())}.{namespace}"


def session_mark(name: str) -> str:
    """What the temporary name of a file says of its session, by which locks.py knows it.

    >>> session_mark("sub-01_ses-a_FLAIR.json") == session_mark("sub-01_ses-a")
    True
    >>> session_mark("sub-01_FLAIR.json") == session_mark("sub-01_ses-a_FLAIR.json")
    False
    """
    match = _SESSION.match(name)
    return _mark(match[0] if match else "")


def _mark(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


def short_name(text: str) -> str:
    """A text as a part of a file name: no spaces, and at most 100 bytes, told apart by a hash.

    >>> short_name("sub-01 FLAIR"), len(short_name("x" * 300)), short_name("x" * 300) == short_name("x" * 301)
    ('sub-01_FLAIR', 100, False)
    """
    name = text.replace(" ", "_")
    encoded = os.fsencode(name)
    return name if len(encoded) <= 100 else f"{encoded[:91].decode(errors='ignore')}-{_mark(name)}"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot flush a folder
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def remove_stale_temporaries(folder: Path) -> int:
    """Number of temporary files in ``folder`` that were removed: their process has died, or they are old.

    Old is two days. A live process keeps its files: jobs may share a folder. What lies in
    folders below belongs to the lock of a session (locks.py).
    """
    n_removed = 0
    for path in folder.glob(".tmp-*") if folder.is_dir() else ():
        match = TEMPORARY.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        here = match["host"] == _here()
        if (here and not _is_alive(int(match["pid"]))) or time.time() - path.stat().st_mtime > _STALE_AFTER_S:
            path.unlink(missing_ok=True)
            n_removed += 1
    return n_removed


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def save_bytes(content: bytes, path: Path) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def save_text(text: str, path: Path) -> None:
    # A lone surrogate, of a file name that is no UTF-8 or of a JSON escape, becomes that escape again.
    save_bytes(text.encode("utf-8", "backslashreplace"), path)


def save_json(content: Mapping[str, Any], path: Path) -> None:
    """Write what JSON can hold of ``content``: a number that is not finite is left out, with its field."""
    save_text(json.dumps(plain_json(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n", path)


def plain_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` in JSON's own types, without what JSON cannot hold.

    >>> plain_json({"a": np.float32(0.5), "b": float("nan"), "c": {"d": [1, float("inf")], "e": Path("x")}})
    {'a': 0.5, 'c': {'e': 'x'}}
    """
    held = {str(name): _plain(value) for name, value in content.items()}
    return {name: value for name, value in held.items() if value is not _NOTHING}


def save_tsv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows; the columns are the union of their keys in order of appearance, absent values ``n/a``."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["\t".join(columns)]
    lines += ["\t".join(_cell(row.get(column)) for column in columns) for row in rows]
    save_text("\n".join(lines) + "\n", path)


def data_dictionary(columns: Mapping[str, tuple[str, str | None]]) -> dict[str, dict[str, str]]:
    """Column -> its description and, where it has one, its unit, as BIDS has them beside a table.

    >>> data_dictionary({"age": ("Age at the scan", "year"), "site": ("Where", None)})
    {'age': {'Description': 'Age at the scan', 'Units': 'year'}, 'site': {'Description': 'Where'}}
    """
    return {
        name: {"Description": text, **({"Units": unit} if unit else {})}
        for name, (text, unit) in columns.items()
    }


def load_tsv(path: Path) -> list[dict[str, str]]:
    """Rows of a TSV file, as text; blank lines are no rows."""
    header, *lines = [line for line in load_text(path).split("\n") if line.strip()]
    columns = [name.strip() for name in header.split("\t")]
    return [dict(zip(columns, line.split("\t"), strict=True)) for line in lines]


def load_text(path: Path) -> str:
    """Text of a file, lines ended by ``\\n``: UTF-8, or UTF-16 where its first bytes say so, else Latin-1."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode("utf-16", "replace")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or none that can be read."""
    try:
        content = json.loads(load_text(path))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def names_in(folder: Path) -> list[str]:
    """Names in a folder, sorted; none for a file. InputError where it cannot be looked into."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names that are no text have to be seen as well
        if not os.access(folder, os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except NotADirectoryError:
        return []
    except FileNotFoundError as error:
        raise InputError(
            f"folder {folder} is not there, or a link to nowhere; fetch it (`datalad get`) or remove it"
        ) from error
    except OSError as error:
        raise InputError(
            f"folder {folder} cannot be read ({error.strerror}), expected one that this user may look into; "
            "give the right to (chmod a+rx), or leave it out with --participant-label or --session-id"
        ) from error
    return names


def _cell(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}" if np.isfinite(value) else "n/a"
    text = "" if value is None else re.sub(r"\s+", " ", str(value)).strip()
    return text or "n/a"


def _plain(value: Any) -> Any:
    """A value in JSON's own types; ``_NOTHING`` where it has none."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _NOTHING
    if isinstance(value, Mapping):
        return plain_json(value)
    if isinstance(value, (list, tuple)):
        # Elements are counted by whoever reads them: a list with a hole goes as a whole.
        held = [_plain(element) for element in value]
        return _NOTHING if any(element is _NOTHING for element in held) else held
    return value.as_posix() if isinstance(value, Path) else str(value)
