"""What a failure looks like: a line in the log and a part of the last one; everything else in a file."""

import logging

import pytest

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.failures import failed, record
from atlasgs_bids.errors import InputError, error_text
from tests.bids_datasets import Dataset
from tests.runs import atlasgs

CUDA = (
    "CUDA error: operation failed due to a previous error during capture\n"
    "Search for `cudaErrorStreamCaptureInvalidated' in the documentation for more information.\n"
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below "
    "might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
)


def recorded(tmp_path, caplog, error):
    """The logged line and the crash file of an error."""
    config = RunConfig(tmp_path, tmp_path / "out", "participant")
    with caplog.at_level(logging.ERROR, "atlasgs_bids"):
        try:
            raise error
        except type(error) as caught:
            record(failed("01", "sub-01 FLAIR", caught), config)
    (crash,) = (tmp_path / "out" / "logs").glob("crash-*.txt")
    (line,) = caplog.messages
    assert line.endswith(f"(details: logs/{crash.name})")
    return line.removesuffix(f" (details: logs/{crash.name})"), crash.read_text(encoding="utf-8")


def test_a_library_says_what_happened_and_the_crash_file_says_the_rest(tmp_path, caplog):
    line, crash = recorded(tmp_path, caplog, RuntimeError(CUDA))
    expected = "RuntimeError: CUDA error: operation failed due to a previous error during capture"
    assert line == f"sub-01 FLAIR: {expected}"
    for text in CUDA.splitlines():
        assert text in crash


def test_a_long_statement_is_cut_between_words(tmp_path, caplog):
    text = " ".join(f"word{number}" for number in range(400))
    line, crash = recorded(tmp_path, caplog, ValueError(text))
    assert 150 < len(line) < 220
    assert line.endswith("…")
    assert set(line.removesuffix("…").split()[3:]) <= set(text.split())
    assert text in crash


def test_our_own_words_are_kept_to_the_remedy(tmp_path, caplog):
    text = "seen " * 40 + "expected otherwise;\n   do this"
    line, _ = recorded(tmp_path, caplog, InputError(text))
    assert line == f"sub-01 FLAIR: {' '.join(text.split())}"


@pytest.mark.parametrize("error", [RuntimeError(""), KeyError(), AssertionError("\n \n")])
def test_an_error_without_words_has_a_name(error):
    assert error_text(error).startswith(type(error).__name__)
    assert not error_text(error).endswith((":", " "))


def test_the_last_line_of_a_run_is_short_however_much_fails(tmp_path):
    """A file stands where each participant's folder has to be, under a path that fills the line by itself."""
    dataset = Dataset.create(tmp_path / "bids")
    out_dir = tmp_path / ("a" * 120) / ("b" * 120)
    out_dir.mkdir(parents=True)
    participants = [f"{number:02}" for number in range(1, 8)]
    for participant in participants:
        dataset.add_participant(participant)
        (out_dir / f"sub-{participant}").touch()
    code, last_line, log = atlasgs(dataset.root, out_dir)
    assert code == 1, log
    assert last_line.startswith("0 of 7 participants done; failed: sub-01: FileExistsError: ")
    assert last_line.endswith("; and 2 more")
    assert len(last_line) < 800
    lines = [line for line in log.splitlines() if "FileExistsError" in line]
    assert len(lines) == 7
    crashes = {path.name: path.read_text() for path in (out_dir / "logs").glob("crash-*.txt")}
    for line in lines:
        message, _, details = line.partition(" (details: logs/")
        assert len(message) < 250
        assert f"{out_dir}/sub-" in crashes[details.removesuffix(")")]
