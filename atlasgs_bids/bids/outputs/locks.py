"""One run at a time for each session: the lock, and what a killed run has left behind."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from atlasgs_bids.bids.entities import session_label
from atlasgs_bids.errors import SessionHeldError
from atlasgs_bids.runtime.files import TEMPORARY, session_mark

_LOCK_NAME = ".tmp-lock"
_SHARED_FILES_S = 60
"""They are small: whoever holds them for longer has hung."""
_GONE = (errno.ENOENT, errno.ESTALE)
_MOST_ATTEMPTS, _AGAIN_S = 20, 0.2
"""Together longer than a client of a network file system remembers a file that is gone (GlusterFS: 1 s)."""


@contextmanager
def session_lock(out_dir: Path, participant: str, session: str | None) -> Iterator[None]:
    """Hold the results of one session for this process; SessionHeldError where another process holds them.

    Whoever holds the lock owns every temporary file of the session: the one that wrote it has died, and the
    file is removed. The system lets go of the lock of a killed process, on whichever host it ran.
    """
    path = _lock_path(out_dir, participant, session)
    folder = path.parent
    try:
        lock = _acquired(path)
    except Timeout as error:
        raise SessionHeldError(
            f"{session_label(participant, session)} is being processed by another run "
            f"({_owner(path)}), which goes on; wait for it, or choose other participants"
        ) from error
    try:
        if isinstance(lock, FileLock):  # it turns into another kind, with content of its own, without flock
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        _remove_leftovers(out_dir / f"sub-{participant}", participant, session)
        yield
    finally:
        # While it is held: who opened the old file in the meantime notices that it has no name any more.
        path.unlink(missing_ok=True)
        lock.release()
        _remove_if_empty(folder, out_dir)


@contextmanager
def dataset_lock(root: Path) -> Iterator[None]:
    """Hold the files that all participants of a dataset share; waits for another process that holds them."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / _LOCK_NAME
    with FileLock(path, timeout=_SHARED_FILES_S):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held, as above


def _acquired(path: Path) -> BaseFileLock:
    """The lock at a path; Timeout where another process has it.

    Whoever lets go of a lock removes its file and, of a session without results, the folder: between making
    the folder and opening the file here that is no failure. A network file system calls it a stale handle.
    """
    for attempts_left in reversed(range(_MOST_ATTEMPTS)):
        lock = FileLock(path, timeout=1, thread_local=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:  # Timeout is one, without a number
            if error.errno not in _GONE or not attempts_left:
                raise
            time.sleep(_AGAIN_S)
        else:
            return lock
    raise AssertionError("the last attempt returns or raises")


def lock_holder(out_dir: Path, participant: str, session: str | None) -> str | None:
    """Who holds the results of a session (``process 12 on node3``), None: nobody. Changes nothing."""
    path = _lock_path(out_dir, participant, session)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        # Shared, as a network file system asks of a file that is open for reading; let go of at once.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in _GONE else _owner(path)
    finally:
        with suppress(OSError):  # the file may have gone meanwhile
            os.close(descriptor)
    return None


def _lock_path(out_dir: Path, participant: str, session: str | None) -> Path:
    return out_dir / f"sub-{participant}" / (f"ses-{session}" if session else "") / _LOCK_NAME


def _owner(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "unknown"
    except OSError:
        return "unknown"


def _remove_leftovers(folder: Path, participant: str, session: str | None) -> None:
    """Figures of all sessions lie in one folder, so it is not the folder that says whose a file is."""
    mark = session_mark(f"sub-{participant}" + (f"_ses-{session}" if session else ""))
    for path in folder.rglob(".tmp-*"):
        match = TEMPORARY.fullmatch(path.name)
        if match is not None and match["session"] == mark:
            path.unlink(missing_ok=True)


def _remove_if_empty(folder: Path, out_dir: Path) -> None:
    """A participant without any result leaves no folder."""
    while folder != out_dir:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
