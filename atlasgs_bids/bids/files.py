"""Atomic writes: a file is either whole under its name or absent. Text and tables as others wrote them."""

import codecs
import errno
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.openers import Opener

from atlasgs_bids.errors import InputError

_TEMPORARY = re.compile(r"\.tmp-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{8}_.+")
_STALE_AFTER_S = 48 * 3600


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` with the same extension, renamed to it when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{_here()}-{os.getpid()}-{secrets.token_hex(4)}_{path.name}")
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
    return f"{socket.gethostname()}.{namespace}"


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
        match = _TEMPORARY.fullmatch(path.name)
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


def save_image(image: nib.Nifti1Image, path: Path) -> None:
    with atomic(path) as temporary:
        nib.save(image, temporary)


@contextmanager
def image_stream(path: Path, header: nib.Nifti1Header) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends one float32 volume to a NIfTI file, which appears when the block succeeds.

    Closing after fewer or more volumes than the header has raises ValueError.
    """
    n_expected, n_written = header.get_data_shape()[3], 0
    with atomic(path) as temporary:
        with Opener(str(temporary), "wb") as file:
            header.write_to(file)

            def append(volume: np.ndarray) -> None:
                nonlocal n_written
                file.write(np.asarray(volume, dtype=header.get_data_dtype()).tobytes(order="F"))
                n_written += 1

            yield append
        if n_written != n_expected:
            raise ValueError(f"{path.name}: {n_written} volumes were written, the header has {n_expected}")


def save_bytes(content: bytes, path: Path) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def save_text(text: str, path: Path) -> None:
    save_bytes(text.encode("utf-8"), path)


def save_json(content: Mapping[str, Any], path: Path) -> None:
    save_text(json.dumps(content, indent=2, ensure_ascii=False, default=_plain, allow_nan=False) + "\n", path)


def save_tsv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows; the columns are the union of their keys in order of appearance, absent values ``n/a``."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["\t".join(columns)]
    lines += ["\t".join(_cell(row.get(column)) for column in columns) for row in rows]
    save_text("\n".join(lines) + "\n", path)


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
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
