"""Runs of the real command on tiny datasets, quick and coarse."""

import subprocess
import sys

from atlasgs_bids.bids.outputs.names import target_outputs

FAST = ("--device", "cpu", "--registration", "header", "--n-gaussians", "1500", "--scaffold-steps", "2")
FAST += ("--max-iterations", "10", "--regularization", "0.1", "--skip-bids-validation")
TIMEOUT_S = 300


def command(bids_dir, out_dir, *options, level="participant"):
    return [sys.executable, "-m", "atlasgs_bids", str(bids_dir), str(out_dir), level, *FAST, *options]


def atlasgs(bids_dir, out_dir, *options, level="participant"):
    """A finished run: exit code, last line of stdout, log."""
    finished = subprocess.run(
        command(bids_dir, out_dir, *options, level=level),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return finished.returncode, (finished.stdout.splitlines() or [""])[-1], finished.stderr


def outputs(out_dir, participant, suffix, datatype="anat"):
    return target_outputs(out_dir, {"subject": participant, "suffix": suffix, "datatype": datatype})
