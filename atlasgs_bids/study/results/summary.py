"""All cells of a study -> its tables and figures, made anew each time."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atlasgs_bids.runtime.files import save_json, save_text, save_tsv
from atlasgs_bids.study.results import columns as dictionary
from atlasgs_bids.study.results.cells import TRUTH, Cell, CellKey, Cells
from atlasgs_bids.study.results.oblique import ANGLES_DEG
from atlasgs_bids.study.results.scores import pooled
from atlasgs_bids.study.results.statistics import (
    FEWEST_FOR_P,
    bootstrap_interval,
    holm,
    mean_interval,
    paired_p_value,
)
from atlasgs_bids.study.results.tables import latex_table, markdown_table, numbers_of_subjects
from atlasgs_bids.study.results.tissues import CLASSES
from atlasgs_bids.study.settings import METHODS, MORE_METHODS, method_of_row

Row = dict[str, Any]
Group = tuple[str, int, str]
"""Target, factor, region."""

UNIT_METRICS = ("psnr", "ssim_mask", "mae")
"""Those that slices have of their own."""
METRICS = (
    *UNIT_METRICS, "ssim_volume", "edge_ncc", "edge_ncc_truth", "consistency_rms", "sharpness", "n_patches",
    "invented", "erased", *(f"dice_{name}" for name in CLASSES), *(f"bias_{name}" for name in CLASSES),
    *(f"oblique_{angle}" for angle in ANGLES_DEG), "position_error", "lesion_contrast",
)  # fmt: skip
_COSTS = ("seconds", "seconds_shared", "peak_memory", "peak_gpu_memory")
_ORDER = {name: place for place, name in enumerate([*METHODS, *MORE_METHODS])}


def write_results(out_dir: Path) -> None:
    """scores, summary and tests as TSV with JSON dictionaries; Markdown and LaTeX; figures."""
    cells = sorted(
        Cells(out_dir), key=lambda cell: (cell.key.target, cell.key.factor, _rank(cell.key.method))
    )
    if not cells:
        return
    done = [cell for cell in cells if cell.done]
    summary, comparisons, not_run = summary_rows(done), comparison_rows(done), _not_run(cells)
    for name, rows in (
        ("scores", _score_rows(cells)), ("summary", summary), ("tests", comparisons),
    ):  # fmt: skip
        if rows:
            save_tsv(rows, out_dir / f"{name}.tsv")
            save_json(dictionary.of(rows), out_dir / f"{name}.json")
    save_text(markdown_table(summary, comparisons, not_run), out_dir / "tables.md")
    save_text(latex_table(summary), out_dir / "tables.tex")
    _write_figures(out_dir, done, summary)


def _rank(row: str) -> tuple[int, bool]:
    """Methods as the settings have them, each at known calibration before its defaults."""
    method, calibration = method_of_row(row)
    return _ORDER.get(method, len(_ORDER)), calibration != "known"


def _score_rows(cells: Sequence[Cell]) -> list[Row]:
    """One row for each cell and region."""
    rows = []
    for cell in cells:
        key, content = cell.key, cell.content
        about = {
            "participant_id": f"sub-{key.participant}",
            "session_id": f"ses-{key.session}" if key.session else None,
            "target": key.target,
            "factor": key.factor,
            "method": key.method,
            "status": content["status"],
        }
        costs = {name: content.get(name) for name in _COSTS}
        for region, found in content.get("regions", {None: {"values": {}}}).items():
            values = {name: found["values"].get(name) for name in METRICS}
            rows.append(
                {
                    **about, "region": region, **values, **costs, "device": content.get("device"),
                    "version": content.get("version"), "reason": content.get("reason"),
                }
            )  # fmt: skip
    return rows


def _grouped(done: Sequence[Cell]) -> dict[Group, dict[str, list[Cell]]]:
    """Cells by target, factor and region, then method; sorted by subject, so that methods pair up."""
    groups: dict[Group, dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in sorted(done, key=lambda cell: (cell.key.participant, cell.key.session or "")):
        for region in cell.content["regions"]:
            groups[cell.key.target, cell.key.factor, region][cell.key.method].append(cell)
    return groups


def summary_rows(done: Sequence[Cell]) -> list[Row]:
    """Mean over subjects, or the one subject's value, with its interval."""
    rows = []
    for (target, factor, region), by_method in sorted(_grouped(done).items()):
        for method in sorted(by_method, key=_rank):
            for metric in METRICS:
                own = [cell for cell in by_method[method] if np.isfinite(_value(cell, region, metric))]
                if not own:
                    continue
                values = np.array([_value(cell, region, metric) for cell in own])
                low, high, unit, n = _interval(own, region, metric, values)
                rows.append(
                    {
                        "target": target, "factor": factor, "region": region, "method": method,
                        "metric": metric, "mean": float(values.mean()), "low": low, "high": high, "n": n,
                        "unit": unit, "n_subjects": len({cell.key.participant for cell in own}),
                    }
                )  # fmt: skip
    return rows


def _interval(
    own: Sequence[Cell], region: str, metric: str, values: npt.NDArray[np.float64]
) -> tuple[float, float, str, int]:
    """Over subjects where there are several (sessions of one subject stay together), else over slices."""
    subjects = sorted({cell.key.participant for cell in own})
    if len(subjects) > 1:
        of_subject = [
            np.array([v for c, v in zip(own, values, strict=True) if c.key.participant == subject])
            for subject in subjects
        ]
        low, high = bootstrap_interval(
            len(subjects), lambda drawn: float(np.concatenate([of_subject[i] for i in drawn]).mean())
        )
        return low, high, "subjects", len(subjects)
    if metric not in UNIT_METRICS or len(own) > 1:
        return np.nan, np.nan, "subjects", len(subjects)
    units, data_range = _units(own[0], region), own[0].content["range"]
    n_slices = len(units["n_voxels"])
    low, high = bootstrap_interval(
        n_slices, lambda drawn: pooled({k: v[drawn] for k, v in units.items()}, data_range)[metric]
    )
    return low, high, "slices", n_slices


def _units(cell: Cell, region: str) -> dict[str, npt.NDArray[np.float64]]:
    stored = cell.content["regions"][region]["units"]
    return {name: np.asarray(values, np.float64) for name, values in stored.items()}


def comparison_rows(done: Sequence[Cell]) -> list[Row]:
    """Every pair of methods: mean difference, its interval, p of Wilcoxon's test, Holm's over the pairs.

    p is NaN for fewer than 5 subjects, slices of one subject being none.
    """
    rows = []
    for (target, factor, region), by_method in sorted(_grouped(done).items()):
        methods = sorted(by_method, key=_rank)
        for metric in UNIT_METRICS:
            found: list[Row] = []
            for first, second in combinations(methods, 2):
                a, b, unit = _paired(by_method[first], by_method[second], region, metric)
                if len(a) < 2:
                    continue
                low, high = mean_interval(a - b)
                tested = unit == "subjects" and len(a) >= FEWEST_FOR_P
                found.append(
                    {
                        "target": target, "factor": factor, "region": region, "metric": metric,
                        "first": first, "second": second, "difference": float(np.mean(a - b)),
                        "low": low, "high": high, "n": len(a), "unit": unit,
                        "p": paired_p_value(a, b) if tested else np.nan,
                    }
                )  # fmt: skip
            for row, adjusted in zip(found, holm([row["p"] for row in found]), strict=True):
                rows.append({**row, "p_holm": adjusted})
    return rows


def _paired(
    first: Sequence[Cell], second: Sequence[Cell], region: str, metric: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], str]:
    """The values of both methods, subject by subject; of one subject slice by slice."""
    values = [{(c.key.participant, c.key.session): c for c in cells} for cells in (first, second)]
    both = sorted(values[0].keys() & values[1].keys(), key=str)
    subjects = sorted({participant for participant, _ in both})
    if len(subjects) > 1:
        # Sessions of one subject are no independent pairs: their mean is one.
        a, b = (
            np.array([np.mean([_value(own[k], region, metric) for k in both if k[0] == s]) for s in subjects])
            for own in values
        )
        return a, b, "subjects"
    if len(both) != 1:
        return np.empty(0), np.empty(0), "slices"
    a, b = (_per_slice(own[both[0]], region, metric) for own in values)
    return a, b, "slices"


def _value(cell: Cell, region: str, metric: str) -> float:
    value = cell.content["regions"][region]["values"].get(metric)
    return np.nan if value is None else float(value)


def _per_slice(cell: Cell, region: str, metric: str) -> npt.NDArray[np.float64]:
    units, data_range = _units(cell, region), float(cell.content["range"])
    n_slices = len(units["n_voxels"])
    each = [pooled({name: sums[[i]] for name, sums in units.items()}, data_range) for i in range(n_slices)]
    found: npt.NDArray[np.float64] = np.array([own[metric] for own in each])
    return found


def _not_run(cells: Sequence[Cell]) -> dict[str, str]:
    """Methods that ran nowhere, and why."""
    ran = {cell.key.method for cell in cells if cell.done}
    found = {c.key.method: str(c.content.get("reason")) for c in cells if c.content["status"] == "not run"}
    return {method: reason for method, reason in found.items() if method not in ran}


def _write_figures(out_dir: Path, done: Sequence[Cell], summary: Sequence[Row]) -> None:
    from atlasgs_bids.study.results.figures import Line, cuts_figure, factor_figure  # noqa: PLC0415 - loads matplotlib

    for target in sorted({row["target"] for row in summary}):
        own = [r for r in summary if (r["target"], r["region"], r["metric"]) == (target, "mask", "psnr")]
        lines = [
            Line(
                method,
                [r["factor"] for r in own if r["method"] == method],
                [r["mean"] for r in own if r["method"] == method],
                [(r["low"], r["high"]) for r in own if r["method"] == method],
            )
            for method in sorted({r["method"] for r in own}, key=_rank)
        ]
        unit = "subjects" if any(r["unit"] == "subjects" for r in own) else "slices"
        title = f"{target}: 95 % intervals over {unit}, n = {numbers_of_subjects(own)}"
        factor_figure(_figure(out_dir, f"psnr_{target}"), lines, title)
    cells = Cells(out_dir)
    places = sorted({_without_method(cell.key) for cell in done}, key=lambda key: key.stem)
    for place in places:
        truth = cells.load_cuts(place)
        methods = sorted((c.key.method for c in done if _without_method(c.key) == place), key=_rank)
        images = {m: cells.load_cuts(CellKey(**{**vars(place), "method": m})) for m in methods}
        found = {m: cuts for m, cuts in images.items() if cuts is not None}
        if truth is not None and found:
            title = place.stem.removesuffix(f"_{TRUTH}")
            cuts_figure(_figure(out_dir, f"cuts_{title}"), truth, found, f"{title}, n = 1")


def _figure(out_dir: Path, name: str) -> Path:
    folder = out_dir / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.png"


def _without_method(key: CellKey) -> CellKey:
    return CellKey(key.participant, key.session, key.target, key.factor, TRUTH)
