"""Intervals and tests against cases worked out by hand."""

import numpy as np
import pytest

from atlasgs_bids.study.results.cells import Cell, CellKey
from atlasgs_bids.study.results.statistics import (
    bootstrap_interval,
    holm,
    mean_interval,
    paired_p_value,
)
from atlasgs_bids.study.results.summary import comparison_rows, summary_rows
from atlasgs_bids.study.results.tables import differences_from, latex_table, markdown_table


def test_wilcoxon_of_five_pairs_by_hand():
    """All five differences have one sign: 2 of 2⁵ assignments are as extreme."""
    assert paired_p_value([2.0, 3, 5, 7, 11], [1.9, 2.8, 4.7, 6.6, 10.5]) == pytest.approx(2 / 32)


def test_wilcoxon_with_a_small_opposite_difference_by_hand():
    """Ranks 1 (negative), 2, 3, 4: W₋ = 1, two-sided 2 · P(W₋ ≤ 1) = 2 · 2/16."""
    assert paired_p_value([0.0, 2, 3, 4], [1.0, 0, 0, 0]) == pytest.approx(0.25)


def test_nothing_to_test():
    assert paired_p_value([1.0, 2, 3], [1.0, 2, 3]) == 1
    assert np.isnan(paired_p_value([1.0], [2.0]))


def test_holm_by_hand():
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, none below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_out_what_was_not_tested():
    adjusted = holm([np.nan, 0.5, 0.9])
    assert np.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([1.0, 1.0])


def test_bootstrap_of_a_mean_is_that_of_the_theory():
    """Of 400 normal values the standard error is 1/20: ± 1.96/20 around the mean."""
    values = np.random.default_rng(0).normal(3, 1, 400)
    low, high = bootstrap_interval(len(values), lambda drawn: float(values[drawn].mean()))
    error = values.std() / 20
    assert (low, high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.01
    )
    assert mean_interval(values) == pytest.approx((low, high))
    assert np.isnan(bootstrap_interval(1, lambda _drawn: 0.0)).all()
    assert np.isnan(mean_interval(values[:1])).all()


def cell(participant, method, psnr, squared=(4.0, 4.0)):
    """A cell of two slices with 10 voxels each."""
    units = {"n_voxels": [10, 10], "squared": list(squared), "absolute": [5, 5], "ssim": [9, 8]}
    values = {"psnr": psnr, "ssim_mask": 0.85, "mae": 0.5}
    content = {"status": "done", "range": 10.0, "regions": {"mask": {"values": values, "units": units}}}
    return Cell(CellKey(participant, None, "FLAIR", 3, method), content)


def test_several_subjects_are_the_units():
    cells = [cell(f"{i}", "cubic", 20.0 + i) for i in range(6)] + [
        cell(f"{i}", "graph", 23.0 + 1.1 * i) for i in range(6)
    ]
    psnr = {row["method"]: row for row in summary_rows(cells) if row["metric"] == "psnr"}
    assert (psnr["cubic"]["mean"], psnr["cubic"]["n"], psnr["cubic"]["unit"]) == (22.5, 6, "subjects")
    assert 20 < psnr["cubic"]["low"] < 22.5 < psnr["cubic"]["high"] < 25
    (row,) = [row for row in comparison_rows(cells) if row["metric"] == "psnr"]
    assert row["difference"] == pytest.approx(-3.25)
    assert row["p"] == row["p_holm"] == pytest.approx(2 / 64)


def test_slices_are_the_units_of_one_subject():
    """MSE of the slices 0.4 and 0.9: the interval spans their PSNR, the value is that of the mean."""
    cells = [cell("1", "cubic", 10 * np.log10(100 / 0.65), squared=(4.0, 9.0))]
    (row,) = [row for row in summary_rows(cells) if row["metric"] == "psnr"]
    assert (row["n"], row["unit"]) == (2, "slices")
    assert row["low"] == pytest.approx(10 * np.log10(100 / 0.9))
    assert row["high"] == pytest.approx(10 * np.log10(100 / 0.4))


def test_sessions_of_one_subject_are_no_subjects():
    cells = [cell("1", "cubic", 20.0)]
    other = CellKey("1", "b", "FLAIR", 3, "cubic")
    cells.append(Cell(other, cells[0].content))
    (row,) = [row for row in summary_rows(cells) if row["metric"] == "psnr"]
    assert np.isnan(row["low"])
    assert row["n"] == 1


@pytest.mark.parametrize(("n_subjects", "has_p"), [(1, False), (2, False), (4, False), (5, True)])
def test_there_is_no_p_value_below_five_subjects(n_subjects, has_p):
    cells = [
        cell(f"{i}", method, psnr + 0.1 * i * i, squared=(4.0, 4.0 + psnr))
        for i in range(n_subjects)
        for method, psnr in (("cubic", 20.0), ("graph", 23.0 + i))
    ]
    (row,) = [row for row in comparison_rows(cells) if row["metric"] == "psnr"]
    assert np.isfinite(row["p"]) == np.isfinite(row["p_holm"]) == has_p
    assert row["unit"] == ("subjects" if n_subjects > 1 else "slices")


def test_differences_are_paired_and_drawn_over_subjects():
    """Subjects that differ by 50 dB and gains that do not: the gain is known far better than the level."""
    gains = [2.0, 2.5, 3.0, 3.5]
    cells = [cell(f"{i}", "cubic", 10.0 + 15 * i) for i in range(4)]
    cells += [cell(f"{i}", "graph", 10.0 + 15 * i + gain) for i, gain in enumerate(gains)]
    comparisons = comparison_rows(cells)
    (over_cubic,) = [r for r in differences_from(comparisons, "cubic") if r["metric"] == "psnr"]
    (over_graph,) = [r for r in differences_from(comparisons, "graph") if r["metric"] == "psnr"]
    assert (over_cubic["method"], over_cubic["n_subjects"]) == ("graph", 4)
    assert over_cubic["mean"] == pytest.approx(2.75)
    assert 2.0 <= over_cubic["low"] < 2.5
    assert 3.0 < over_cubic["high"] <= 3.5
    assert over_graph["mean"] == -over_cubic["mean"]
    assert (over_graph["low"], over_graph["high"]) == (-over_cubic["high"], -over_cubic["low"])


def test_every_table_says_n():
    cells = [cell(f"{i}", method, 20.0 + i) for i in range(3) for method in ("cubic", "graph")]
    cells += [cell("3", "cubic", 20.0)]
    comparisons = comparison_rows(cells)
    shown = markdown_table(summary_rows(cells), comparisons, {})
    headings = [line for line in shown.splitlines() if line.startswith("###")]
    assert len(headings) == 5
    assert headings[0] == "### FLAIR, mask: PSNR, dB; n = 3 to 4"
    assert headings[-1] == "### FLAIR, mask: PSNR minus that of graph, dB; n = 3"
    assert "n = 3 to 4 subjects" in shown
    latex = latex_table(summary_rows(cells))
    assert latex.count("; n = 3 to 4\n") == latex.count(r"\begin{tabular}") == 3
