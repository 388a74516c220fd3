"""Threads, caches and the temporary directory of this process, set before the libraries that read them load.

Containers and clusters run the app without a home directory, on a read-only file system, as any user.
"""

import getpass
import os
import sys
import tempfile
from pathlib import Path

from atlasgs_bids.errors import ConfigurationError

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
_SYSTEM_TEMPORARY = ("/tmp", "/var/tmp", "/usr/tmp")


def share_of_threads(n_procs: int) -> int:
    """Threads of each of ``n_procs`` processes: OMP_NUM_THREADS where it is set, else the CPUs over n_procs.

    CPUs are those that this process may use: affinity and a container's quota count.
    """
    stated = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if stated.isdigit() and int(stated) > 0:
        return int(stated)
    from joblib import cpu_count  # noqa: PLC0415 - 0.2 s

    return max(1, int(cpu_count()) // n_procs)


def limit_threads(n_threads: int) -> None:
    """Let torch, numba, ITK and the linear algebra libraries of this process use ``n_threads`` threads."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(n_threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n_threads)
    if "SimpleITK" in sys.modules:
        sys.modules["SimpleITK"].ProcessObject.SetGlobalDefaultNumberOfThreads(n_threads)
    if "numba" in sys.modules:
        # Its variable may not change once it runs, and it cannot use more threads than it started.
        numba = sys.modules["numba"]
        numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
    else:
        os.environ["NUMBA_NUM_THREADS"] = str(n_threads)


def stand_in_for_user() -> None:
    """Give a home and a name to a user that the system knows by number alone; pybids needs one to load.

    The home is ``/``, as Docker has it: it holds no settings that others wrote, and caches go elsewhere.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"
    try:
        getpass.getuser()
    except (KeyError, OSError):  # the latter since Python 3.13
        os.environ["USER"] = f"user{os.getuid()}"


def place_caches(work_dir: Path | None) -> None:
    """Compiled kernels and font lists go to the work dir, else below the temporary directory.

    A variable that the user has set wins. numba's kernels stay beside the code where that can be written and
    no work dir is given. Raises ConfigurationError where nothing can be written.
    """
    _check_temporary_directory(work_dir)
    package = Path(__file__).parents[1]
    folder = work_dir or _own_folder(Path(tempfile.gettempdir()))
    if work_dir is not None or not os.access(package, os.W_OK):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(folder / "numba"))
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))
    os.environ.setdefault("DENO_DIR", str(folder / "deno"))


def _check_temporary_directory(work_dir: Path | None) -> None:
    """Use the work dir where the system has no temporary directory, rather than the current folder."""
    stated = [os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if name in os.environ]
    try:
        if tempfile.gettempdir() in (*map(os.path.abspath, stated), *_SYSTEM_TEMPORARY):
            return
    except FileNotFoundError:
        pass
    if work_dir is None:
        raise ConfigurationError(
            "no temporary directory can be written (TMPDIR, /tmp, /var/tmp); pass --work-dir, or mount one: "
            "docker run --tmpfs /tmp"
        )
    os.environ["TMPDIR"] = tempfile.tempdir = str(work_dir)


def _own_folder(temporary: Path) -> Path:
    """A folder that only this user can write: what it holds is loaded as code."""
    folder = temporary / f"atlasgs-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if status.st_uid == os.getuid() and not status.st_mode & 0o022 and not folder.is_symlink():
            return folder
    except OSError:  # a file of that name, or a full disk: mkdtemp finds another name, or says so
        pass
    return Path(tempfile.mkdtemp(prefix="atlasgs-"))
