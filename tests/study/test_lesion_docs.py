"""The lesions' tables in docs/study.md are those of the measured cells beside it."""

import json
from pathlib import Path

import pytest

from atlasgs_bids.study.results.lesion_cells import DOCUMENTED, cells_from, lesion_table, missed_bars

DOCS = Path(__file__).parents[2] / "docs"
MEASURED = sorted((DOCS / "measured").glob("lesions-*.json"))


def test_something_was_measured():
    assert MEASURED


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_the_tables_are_those_that_were_measured(path):
    cells = cells_from(json.loads(path.read_text("utf-8"))["cells"])
    assert lesion_table(cells, DOCUMENTED) in (DOCS / "study.md").read_text("utf-8")


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_the_missed_bars_are_those_of_the_cells(path):
    measured = json.loads(path.read_text("utf-8"))
    cells = cells_from(measured["cells"])
    cubic = [cell for cell in cells if cell.method == "cubic"]
    for method, bars in measured["missed_bars"].items():
        found = missed_bars([cell for cell in cells if cell.method == method], cubic)
        assert {bar: len(said) for bar, said in found.items()} == {
            bar: len(said) for bar, said in bars.items()
        }
