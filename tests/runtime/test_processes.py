"""What an invocation leaves behind: an exit code, a line of the log, a last line."""

import os
import signal

import pytest

from atlasgs_bids.errors import ConfigurationError
from atlasgs_bids.runtime.processes import Ended, exit_code_of


def refused(_progress):
    raise ConfigurationError("found 0 participants, expected 1; name one")


def interrupted(_progress):
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()


@pytest.mark.parametrize(
    ("work", "code", "out", "said"),
    [
        (lambda _progress: Ended(0, "1 of 1 done"), 0, "1 of 1 done\n", ""),
        (lambda _progress: Ended(1), 1, "", ""),
        (refused, 2, "", "found 0 participants, expected 1; name one"),
        (interrupted, 130, "", "interrupted; cells stay, the next run goes on from there"),
    ],
)
def test_an_invocation_ends_with_a_code_and_says_why(capsys, work, code, out, said):
    assert exit_code_of(work, 0, "cells stay") == code
    written = capsys.readouterr()
    assert written.out == out
    assert said in written.err
    assert "Traceback" not in written.err


def test_what_is_no_mistake_of_the_user_is_raised():
    with pytest.raises(ZeroDivisionError):
        exit_code_of(lambda _progress: 1 / 0, 0, "")
