"""One run at a time for each session: the lock, and what a killed run has left behind."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from atlasgs_bids.bids.entities import session_label
from atlasgs_bids.errors import InputError
from atlasgs_bids.runtime.files import TEMPORARY, session_mark

_LOCK_NAME = ".tmp-lock"
_SHARED_FILES_S = 60
"""They are small: whoever holds them for longer has hung."""


@contextmanager
def session_lock(out_dir: Path, participant: str, session: str | None) -> Iterator[None]:
    """Hold the results of one session for this process; InputError where another process holds them.

    Whoever holds the lock owns every temporary file of the session: the one that wrote it has died, and the
    file is removed. The system lets go of the lock of a killed process, on whichever host it ran.
    """
    folder = out_dir / f"sub-{participant}" / (f"ses-{session}" if session else "")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _LOCK_NAME
    lock = FileLock(path, timeout=1, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
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
