"""Tables in the documents are those of the measurements that lie beside them."""

import json
from pathlib import Path

import circular
import consumers
import distortion
import flags
import harmonisation
import perfusion
import series
import series_trust
import speed
import study_tables
import thousand
import trust
import volume_motion

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


def test_the_table_of_a_thousand_is_what_was_measured():
    """And nothing of it grows faster than the participants do."""
    results = json.loads((DOCS / "measured/thousand.json").read_text("utf-8"))
    assert thousand.table(results) in (DOCS / "cluster.md").read_text("utf-8")
    assert list(results) == ["100", "300", "1000"]
    for step in thousand.STEPS:
        small, middle, large = (results[n][step] for n in results)
        assert large["cpu_seconds"] < 1.15 * 1000 / 300 * middle["cpu_seconds"], step
        assert large["peak_mib"] < small["peak_mib"] + 1000 * 0.2, step
    assert results["1000"]["group"]["seconds"] < 60


def test_the_table_of_distortion_is_what_was_measured():
    rows = json.loads((DOCS / "measured/distortion.json").read_text("utf-8"))
    assert distortion.table(rows) in (DOCS / "benchmarks.md").read_text("utf-8")
    assert rows[0]["found"] < 0.7 < rows[0]["rigid"]


def test_the_table_of_given_fields_is_what_was_measured():
    rows = json.loads((DOCS / "measured/distortion-given.json").read_text("utf-8"))
    assert distortion.table(rows, distortion.GIVEN_COLUMNS) in (DOCS / "benchmarks.md").read_text("utf-8")
    alone = {row["seed"]: row["db"] for row in rows if row["file"] == "affine"}
    bent = [row for row in rows if row["file"] != "affine"]
    assert len(bent) == 4
    for row in bent:
        assert row["off"] < 0.05
        assert row["db"] > alone[row["seed"]] + 5


def test_the_table_of_flags_is_what_was_measured():
    rows = json.loads((DOCS / "measured/flags.json").read_text("utf-8"))
    assert flags.table(rows) in (DOCS / "study.md").read_text("utf-8")
    rows[0]["factor"] = 9
    assert flags.table(rows) not in (DOCS / "study.md").read_text("utf-8")


def test_the_table_of_volumes_that_move_is_what_was_measured():
    rows = json.loads((DOCS / "measured/volume_motion.json").read_text("utf-8"))
    assert volume_motion.table(rows) in (DOCS / "benchmarks.md").read_text("utf-8")


def test_the_table_of_stages_is_what_was_measured():
    found = json.loads((DOCS / "measured/speed.json").read_text("utf-8"))
    assert speed.table(found) in (DOCS / "benchmarks.md").read_text("utf-8")


def test_the_tables_of_series_are_what_was_measured():
    page = (DOCS / "benchmarks.md").read_text("utf-8")
    measured = {"series": series, "perfusion": perfusion, "harmonisation": harmonisation}
    for name, module in (measured | {"series_trust": series_trust}).items():
        rows = json.loads((DOCS / "measured" / f"{name}.json").read_text("utf-8"))
        assert module.table(rows) in page


def test_the_tables_of_the_study_are_what_was_measured():
    content = json.loads((DOCS / "measured/study.json").read_text("utf-8"))
    assert content["stroke"]
    shown = study_tables.documents(content)
    for page, tables in shown.items():
        text = page.read_text("utf-8")
        for mark, table in tables.items():
            assert f"<!-- {mark}: begin -->\n\n{table}\n<!-- {mark}: end -->" in text, mark
    content["stroke"][0]["psnr"][0] += 0.1
    assert study_tables.documents(content) != shown
