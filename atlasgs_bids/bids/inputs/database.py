"""``--bids-database-dir``: whether a stored index of a participant still describes the dataset."""

import hashlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from atlasgs_bids.runtime.files import save_text


@contextmanager
def current_database(
    database_dir: Path, bids_dir: Path, participant: str, contents: object
) -> Iterator[tuple[Path, bool]]:
    """Folder of a participant's index, and whether it has to be made anew, for one process at a time.

    It has where a file was added, removed or changed (by size and time), or ``contents``, which says what the
    index is asked to hold, differs. A stored index that pybids would take as it is would miss all that.
    """
    folder = database_dir / f"sub-{participant}"
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / "dataset.sha256"
    with FileLock(folder / ".lock"):
        fingerprint = _fingerprint(bids_dir, participant, contents)
        reset = not stamp.exists() or stamp.read_text(encoding="ascii") != fingerprint
        if reset:
            stamp.unlink(missing_ok=True)  # a run that is killed while it indexes leaves no valid stamp
        yield folder / "index", reset
        if reset:
            save_text(fingerprint, stamp)


def _fingerprint(bids_dir: Path, participant: str, contents: object) -> str:
    digest = hashlib.sha256(repr((str(bids_dir.resolve()), contents)).encode())
    subject_dir = bids_dir / f"sub-{participant}"
    folders = ("", "anat/", "dwi/", "perf/")
    patterns = [f"{session}{folder}*" for session in ("", "ses-*/") for folder in folders]
    paths = [*bids_dir.glob("*"), *(path for pattern in patterns for path in subject_dir.glob(pattern))]
    for path in sorted(set(paths)):
        try:
            status = path.lstat()
        except OSError as error:
            digest.update(repr((path.as_posix(), error.errno)).encode())
            continue
        if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            digest.update(repr((path.as_posix(), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()
