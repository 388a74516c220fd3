"""Runs of the real command on tiny datasets, quick and coarse."""

import logging
import multiprocessing
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from atlasgs_bids import run
from atlasgs_bids.bids.outputs.names import target_outputs

FAST = ("--device", "cpu", "--registration", "header", "--n-gaussians", "1500", "--scaffold-steps", "2")
FAST += ("--max-iterations", "10", "--regularization", "0.1", "--skip-bids-validation")
TIMEOUT_S = 300

_APP = "atlasgs_bids.app"
_LOADED = [f"{_APP}.{name}" for name in ("run", "redraw", "session", "pages", "views")]
_LOADED += ["atlasgs_bids.core.splat.cpu", "gsplat.exporter", "atlasgs_bids.study.run"]


def command(bids_dir, out_dir, *options, level="participant"):
    return [sys.executable, "-m", "atlasgs_bids", str(bids_dir), str(out_dir), level, *FAST, *options]


def atlasgs(bids_dir, out_dir, *options, level="participant"):
    """A finished run: exit code, last line of stdout, log."""
    ended = finished("atlasgs_bids.app.cli", *command(bids_dir, out_dir, *options, level=level)[3:])
    return ended.returncode, (ended.stdout.splitlines() or [""])[-1], ended.stderr


def run_logged(config, path):
    """A run in this process: exit code, and the log, kept at ``path``."""
    handler = logging.FileHandler(path)
    logging.getLogger("atlasgs_bids").addHandler(handler)
    try:
        code = run(config)
    finally:
        logging.getLogger("atlasgs_bids").removeHandler(handler)
        handler.close()
    return code, path.read_text()


def finished(module, *arguments):
    """As ``python -m module arguments``, in a process forked from one that has loaded the libraries.

    They take 10 s, and most of these runs are over in 3. A test about the start (signals, users, limits)
    starts Python itself.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LOADED)
    with TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]
        arguments = [str(argument) for argument in arguments]
        process = context.Process(target=_main, args=(module, arguments, files, dict(os.environ), Path.cwd()))
        process.start()
        process.join(TIMEOUT_S)
        if process.is_alive():
            process.kill()
            process.join()
        stdout, stderr = (file.read_text(encoding="utf-8") for file in files)
    return subprocess.CompletedProcess(arguments, process.exitcode, stdout, stderr)


def _main(module, arguments, files, environment, folder):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, path in enumerate(files, start=1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    import_module(module).main(arguments, prog_name=module)


def outputs(out_dir, participant, suffix, datatype="anat"):
    return target_outputs(out_dir, {"subject": participant, "suffix": suffix, "datatype": datatype})
