"""Parts of the app that need no subject."""

import os
from pathlib import Path

import pytest

from atlasgs_bids import app


def test_caches_go_to_the_work_dir_unless_the_user_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "restored afterwards")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("MPLCONFIGDIR", "mine")
    app._place_caches(tmp_path)
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "numba")
    assert os.environ["MPLCONFIGDIR"] == "mine"


def test_caches_of_a_read_only_installation_go_below_the_temporary_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "restored afterwards")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("MPLCONFIGDIR", "kept")
    app._place_caches(None)
    assert "NUMBA_CACHE_DIR" not in os.environ  # this installation can be written
    monkeypatch.setattr(os, "access", lambda *_: False)
    app._place_caches(None)
    assert "atlasgs-" in os.environ["NUMBA_CACHE_DIR"]
