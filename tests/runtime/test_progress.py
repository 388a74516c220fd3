"""Progress on a terminal, where there is none, and in silence."""

import io
import logging

import pytest
from rich.console import Console

from atlasgs_bids.runtime import progress as module
from atlasgs_bids.runtime.progress import Progress


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="atlasgs_bids")
    return caplog


def test_without_a_terminal_stages_are_log_lines(log):
    with (
        Progress(Console(file=io.StringIO(), force_terminal=False)) as progress,
        progress.stage("sub-01: scaffold", total=2) as advance,
    ):
        advance(1)
    start, end = log.messages
    assert start == "sub-01: scaffold ..."
    assert end.startswith("sub-01: scaffold: done in ")


def test_labels_lead_every_stage_and_text_from_the_outermost_on(log):
    with Progress(Console(file=io.StringIO())) as progress:
        target = progress.under("sub-01").under("FLAIR")
        with target.stage("rendering"):
            pass
    assert log.messages[0] == "sub-01 FLAIR: rendering ..."
    assert target.led("the solve stopped") == "sub-01 FLAIR: the solve stopped"
    assert progress.led("no plan") == "no plan"


def test_a_long_stage_says_how_far_it_is(log, monkeypatch):
    monkeypatch.setattr(module, "_LOG_EVERY_S", 0.0)
    with Progress(Console(file=io.StringIO())) as progress, progress.stage("x", total=5) as advance:
        advance(2)
        advance(1)
    assert log.messages[1:3] == ["x: step 2 of 5", "x: step 3 of 5"]


def fail(progress):
    with progress.stage("x"):
        raise ValueError("no")


def test_a_failed_stage_says_so_and_raises(log):
    with Progress(Console(file=io.StringIO())) as progress, pytest.raises(ValueError, match="no"):
        fail(progress)
    assert log.messages[-1].startswith("x: failed in ")


def test_on_a_terminal_stages_are_bars(log):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with Progress(console) as progress:
        with progress.stage("sub-01: scaffold", total=4) as advance:
            advance(4)
            progress._bars.refresh()
        assert progress._bars.tasks == []
    assert "sub-01: scaffold" in screen.getvalue()
    assert "4/4" in screen.getvalue()


def test_the_bars_of_a_target_are_those_of_the_run():
    screen = io.StringIO()
    with Progress(Console(file=screen, force_terminal=True, width=100)) as progress:
        with progress.under("sub-01 FLAIR").stage("appearance", total=3) as advance:
            advance(3)
            progress._bars.refresh()
        assert progress._bars.tasks == []
    assert "sub-01 FLAIR: appearance" in screen.getvalue()


def test_quiet_says_nothing(log):
    with Progress.quiet() as progress, progress.stage("x", total=1) as advance:
        advance(1)
    assert log.messages == []
