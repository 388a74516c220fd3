"""Tables in the documents are those of the measurements that lie beside them."""

import json
from pathlib import Path

import distortion
import trust

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_of_trust_is_what_was_measured():
    rows = json.loads((DOCS / "measured/trust.json").read_text("utf-8"))
    table = trust.table(rows)
    assert table in (DOCS / "benchmarks.md").read_text("utf-8")
    rows[0]["inside_lesions"] = 0.123
    assert trust.table(rows) != table


def test_the_table_of_distortion_is_what_was_measured():
    rows = json.loads((DOCS / "measured/distortion.json").read_text("utf-8"))
    assert distortion.table(rows) in (DOCS / "benchmarks.md").read_text("utf-8")
    assert rows[0]["found"] < 0.7 < rows[0]["rigid"]
