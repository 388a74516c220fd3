"""Tables in the documents are those of the measurements that lie beside them."""

import json
from pathlib import Path

import circular
import consumers
import trust

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_of_trust_is_what_was_measured():
    rows = json.loads((DOCS / "measured/trust.json").read_text("utf-8"))
    table = trust.table(rows)
    assert table in (DOCS / "benchmarks.md").read_text("utf-8")
    rows[0]["inside_lesions"] = 0.123
    assert trust.table(rows) != table


def test_the_table_of_consumers_is_what_was_measured():
    rows = json.loads((DOCS / "measured/consumers.json").read_text("utf-8"))
    page = (DOCS / "consumers.md").read_text("utf-8")
    assert consumers.table(rows) in page
    pinned = consumers.REQUIREMENTS.read_text("utf-8").lower()
    for row in rows:
        name = {"ANTsPy": "antspyx"}.get(row["consumer"], row["consumer"].lower())
        assert f"\n{name}=={row['version']}\n" in pinned, "measured with what is pinned"


def test_the_table_of_circularity_is_what_was_measured():
    rows = json.loads((DOCS / "measured/circular.json").read_text("utf-8"))
    assert circular.table(rows) in (DOCS / "export.md").read_text("utf-8")
