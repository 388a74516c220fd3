"""Cells -> the rows that are stored -> tables of the documents (benchmarks/study_tables.py)."""

import pytest
import study_tables

from tests.study.test_statistics import cell


def rows_of(n_subjects):
    cells = [
        cell(f"{i}", method, psnr + i)
        for i in range(n_subjects)
        for method, psnr in (
            ("cubic", 20.0),
            ("graph", 23.0),
            ("graph-default", 22.0),
            ("learned-default", 24.0),
        )
    ]
    return study_tables.compact(cells)


def test_one_subject_has_no_interval():
    rows = rows_of(1)
    assert [row["method"] for row in rows] == ["cubic", "graph", "graph-default", "learned-default"]
    assert rows[1]["psnr"] == [23.0]
    assert rows[1]["n"] == 1
    assert "psnr_minus_cubic" not in rows[1]
    assert "[" not in study_tables.over_factors(rows, "psnr")


def test_several_subjects_have_intervals_and_paired_differences():
    rows = {row["method"]: row for row in rows_of(6)}
    mean, low, high = rows["graph"]["psnr"]
    assert (mean, rows["graph"]["n"]) == (25.5, 6)
    assert low < mean < high
    assert rows["graph"]["psnr_minus_cubic"] == pytest.approx([3.0, 3.0, 3.0])
    shown = "\n".join(study_tables.study_tables("phantoms", list(rows.values())))
    assert "n = 6, phantoms; brackets: bootstrap 95 % over subjects" in shown
    assert "| `graph` | +3.00 [+3.00, +3.00] |" in shown


def test_what_has_no_cells_is_a_dash_and_the_headline_is_the_defaults_gain():
    stroke = rows_of(1)
    stroke.append({**stroke[0], "factor": 5, "method": "paper"})
    table = study_tables.over_factors(stroke, "psnr")
    assert "| `paper` | – | 20.00 |" in table
    assert "| `graph` | 23.00 | – |" in table
    line = study_tables.headline({"stroke": stroke, "heads": rows_of(3)}).splitlines()[2]
    assert line.endswith("| FLAIR | +2.0 (×3) | +4.0 (×3) |")


def test_the_ablation_is_the_difference_from_the_graph():
    assert "| `cubic` | -3.00 |" in study_tables.ablation_table(rows_of(1))
