"""Other people's tools on a phantom's results: benchmarks/consume.py asserts that what they find is sane."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.validation import validator_errors

ROOT = Path(__file__).parent.parent
OUT = Path(os.environ.get("CONSUMERS_OUT", ROOT / "benchmark-output" / "consumers"))
"""Kept, since it holds the tools' environment."""


def test_the_command_starts_as_documented(tmp_path):
    """Without the folders that pytest adds to the path."""
    script = ROOT / "benchmarks" / "consumers.py"
    subprocess.run([sys.executable, script, "--help"], check=True, cwd=tmp_path, capture_output=True)


@pytest.mark.consumers
def test_they_choose_our_images_and_compute_what_the_truth_says():
    script = ROOT / "benchmarks" / "consumers.py"
    subprocess.run([sys.executable, script, "--out", OUT], check=True, cwd=ROOT)
    rows = json.loads((OUT / "consumers.json").read_text("utf-8"))
    stored = json.loads((ROOT / "docs" / "measured" / "consumers.json").read_text("utf-8"))
    commands = [row["command"] for row in stored if row["dataset"] == "phantom"]
    assert [row["command"] for row in rows] == commands, "docs/consumers.md has a row of each"
    assert len({row["consumer"] for row in rows}) >= 6
    assert validator_errors(OUT / "phantom" / "out") == []
    assert validator_errors(OUT / "phantom" / "out" / "derivatives" / "raw") == []
