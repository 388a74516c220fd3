"""What atlasgs-study measured -> docs/measured/study.json -> the tables of docs/study.md, README's headline.

    python benchmarks/study_tables.py OUT      # OUT as benchmarks/study.sh left it, or its cells.tgz unpacked
    python benchmarks/study_tables.py          # the tables once more, from docs/measured/study.json

A study of OUT that has no finished cells keeps what was stored of it before.
"""

import argparse
import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from documents import DOCS, Row, markdown, put_between, stored

from atlasgs_bids.study.results.cells import Cell, Cells
from atlasgs_bids.study.results.oblique import ANGLES_DEG
from atlasgs_bids.study.results.summary import comparison_rows, summary_rows, write_results
from atlasgs_bids.study.results.tables import differences_from, span
from atlasgs_bids.study.results.tissues import CLASSES

STORED = "study.json"
STUDIES = {
    "stroke": "one real brain, the one that AtlasGS's settings were chosen on",
    "in-plane": "the same brain",
    "heads": "simulated heads, on which nothing was chosen",
}
DIGITS = {"psnr": 2, "oblique_30": 2, "oblique_45": 2, "sharpness": 2, "invented": 1, "erased": 1, "mae": 2}
DIGITS |= {"consistency_rms": 2, "position_error": 2, "lesion_contrast": 2}
REFERENCES = ("cubic", "graph")
COSTS = ("seconds", "peak_gpu_memory", "peak_memory")
ABLATIONS = ("cubic", "spline", "distance", "fitted", "offset", "joint", "own", "inr", "inr-t1", "learned")


def main() -> int:
    parser = argparse.ArgumentParser(description="Tables of the study, from its cells.")
    parser.add_argument("out", type=Path, nargs="?", help="folder with stroke/, in-plane/ and heads/")
    options = parser.parse_args()
    path = DOCS / "measured" / STORED
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if options.out is not None:
        for name in STUDIES:
            done = [cell for cell in Cells(options.out / name) if cell.done]
            if done:
                content[name] = compact(done)
        tried = tuning(options.out)
        if tried:
            content["tuning"] = tried
        stored(content, STORED)
        keep_figures(options.out / "stroke")
    for page, tables in documents(content).items():
        for mark, table in tables.items():
            put_between(page, mark, table)
    return 0


def compact(done: Sequence[Cell]) -> list[Row]:
    """A row for each target, factor, region and method: ``[mean, low, high]`` of each metric, rounded.

    ``psnr_minus_cubic`` and ``psnr_minus_graph`` are paired differences over subjects; where there is one,
    there is no interval, since that of its slices would say nothing of others.
    """
    rows: dict[tuple[Any, ...], Row] = {}
    for mean in summary_rows(done):
        row = _row(rows, mean)
        row["n"] = max(row["n"], mean["n_subjects"])
        row[mean["metric"]] = _rounded(mean)
    pairs = comparison_rows(done)
    for reference in REFERENCES:
        for pair in differences_from(pairs, reference):
            if pair["metric"] == "psnr" and pair["unit"] == "subjects":
                _row(rows, pair)[f"psnr_minus_{reference}"] = _rounded(pair)
    for cell in done:
        row = rows[cell.key.target, cell.key.factor, "mask", cell.key.method]
        for name in COSTS:
            value = cell.content.get(name)
            if value is not None:
                row.setdefault(f"all_{name}", []).append(float(value))
        row |= {name: cell.content.get(name) for name in ("device", "version")}
    for row in rows.values():
        for name in COSTS:
            every = row.pop(f"all_{name}", None)
            if every:
                row[name] = [round(sum(every) / len(every), 1)]
    return list(rows.values())


def tuning(out: Path) -> list[Row]:
    """What was tried, ``OUT/tuning-NAME``, as methods with that name."""
    rows = []
    for folder in sorted(out.glob("tuning-*")):
        name = folder.name.removeprefix("tuning-")
        done = [cell for cell in Cells(folder) if cell.done]
        rows += [{**row, "method": f"{row['method']} {name}"} for row in compact(done)]
    return rows


def _row(rows: dict[tuple[Any, ...], Row], own: Mapping[str, Any]) -> Row:
    setting = ("target", "factor", "region", "method")
    key = tuple(own[name] for name in setting)
    return rows.setdefault(key, {name: own[name] for name in setting} | {"n": 1})


def _rounded(own: Mapping[str, Any]) -> list[float]:
    """Mean and ends of the interval over subjects; the value alone where there is one."""
    values = [own["mean"]]
    if own["unit"] == "subjects" and math.isfinite(own["low"]):
        values += [own["low"], own["high"]]
    return [float(f"{value:.5g}") for value in values]


def keep_figures(study: Path) -> None:
    """The figures of PSNR over thickness, made anew, in docs/images."""
    if not any(Cells(study)):
        return
    write_results(study)
    for figure in (study / "figures").glob("psnr_*.png"):
        shutil.copyfile(figure, DOCS / "images" / f"study-{figure.name.replace('_', '-')}")


@dataclass(frozen=True)
class Column:
    """Of a table: what stands in it."""

    heading: str
    text: Callable[[Row], str]


def documents(content: Mapping[str, list[Row]]) -> dict[Path, dict[str, str]]:
    """By page and mark, the tables of what is stored."""
    page = {}
    for name, who in STUDIES.items():
        if name not in content:
            continue
        in_mask = [row for row in content[name] if row["region"] == "mask"]
        page[f"study-{name}"] = "\n".join(study_tables(who, in_mask))
        lesions = [row for row in content[name] if row["region"] == "lesion"]
        if lesions:
            page[f"study-{name}-lesions"] = lesion_table(who, lesions)
    if "stroke" in content:
        in_mask = [row for row in content["stroke"] if row["region"] == "mask"]
        page["study-ablation"] = ablation_table(in_mask)
        page["study-costs"] = cost_table(in_mask)
    if "tuning" in content:
        page["study-tuning"] = tuning_table(content["tuning"], content["stroke"])
    found = {DOCS / "study.md": page}
    if "stroke" in content and "heads" in content:
        found[DOCS.parent / "README.md"] = {"study": headline(content)}
    return found


def study_tables(who: str, rows: Sequence[Row]) -> list[str]:
    """PSNR, SSIM, MAE and slices' RMS over targets and factors; then everything else at ×5."""
    parts = []
    for metric, words in (
        ("psnr", "PSNR in the mask, dB"),
        ("psnr_minus_cubic", "PSNR minus that of `cubic`, dB, paired"),
        ("psnr_minus_graph", "PSNR minus that of `graph`, dB, paired"),
        ("ssim_mask", "SSIM in the mask"),
        ("mae", "MAE in the mask, intensities"),
        ("consistency_rms", "RMS of the slices that a result predicts against those acquired"),
        ("edge_ncc", "Correlation of the edges with the T1w's; the truth's own is in the last row"),
    ):
        having = [row for row in rows if metric in row]
        if having:
            more = [truths_edges(rows)] if metric == "edge_ncc" else []
            parts.append(f"{words}; {caption(who, having)}:\n")
            parts.append(over_factors(having, metric, more))
    for target in dict.fromkeys(row["target"] for row in rows):
        own = [row for row in rows if (row["target"], row["factor"]) == (target, 5)]
        if own:
            parts.append(f"{target} ×5, by other measures; {caption(who, own)}:\n")
            parts.append(by_measure(own))
    return parts


def caption(who: str, rows: Sequence[Row]) -> str:
    """Who it is, n, and what the brackets are."""
    numbers = [row["n"] for row in rows]
    brackets = "; brackets: bootstrap 95 % over subjects" if max(numbers) > 1 else ""
    return f"n = {span(numbers)}, {who}{brackets}"


def over_factors(rows: Sequence[Row], metric: str, more: Sequence[Sequence[str]] = ()) -> str:
    """Methods as rows, targets and factors as columns."""
    places = sorted({(row["target"], row["factor"]) for row in rows})
    at = {(row["method"], row["target"], row["factor"]): row for row in rows}
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        found = [at.get((method, *place)) for place in places]
        lines.append([f"`{method}`", *(_entry(row, metric) if row else "–" for row in found)])
    return markdown(["", *(f"{target} ×{factor}" for target, factor in places)], [*lines, *more])


def truths_edges(rows: Sequence[Row]) -> list[str]:
    """The last row of the table of edges."""
    places = sorted({(row["target"], row["factor"]) for row in rows})
    first = {place: next(r for r in rows if (r["target"], r["factor"]) == place) for place in places}
    return ["truth", *(_entry(row, "edge_ncc_truth") for row in first.values())]


def by_measure(rows: Sequence[Row]) -> str:
    """Methods as rows, what the study measures beside PSNR and SSIM as columns."""
    columns = [
        Column("sharpness", lambda row: _entry(row, "sharpness")),
        Column("invented %", lambda row: _entry(row, "invented")),
        Column("erased %", lambda row: _entry(row, "erased")),
        Column("Dice " + " / ".join(CLASSES), lambda row: _several(row, "dice", 2)),
        Column("volume bias", lambda row: _several(row, "bias", 2, "+")),
        *(
            Column(f"{angle}°, dB", lambda row, angle=angle: _entry(row, f"oblique_{angle}"))  # type: ignore[misc]
            for angle in ANGLES_DEG
        ),
        Column("position, mm", lambda row: _entry(row, "position_error")),
    ]
    lines = [[f"`{row['method']}`", *(column.text(row) for column in columns)] for row in rows]
    return markdown(["", *(column.heading for column in columns)], lines)


def lesion_table(who: str, rows: Sequence[Row]) -> str:
    """What is left of lesions that the T1w does not show."""
    parts = []
    for metric, words in (("lesion_contrast", "Contrast of lesions over the truth's"), ("psnr", "PSNR, dB")):
        parts += [f"{words}; {caption(who, rows)}:\n", over_factors(rows, metric)]
    return "\n".join(parts)


def ablation_table(rows: Sequence[Row]) -> str:
    """PSNR of what relaxes, shares or takes away, minus that of the graph on the T1w's Gaussians."""
    of_graph = {(row["target"], row["factor"]): row["psnr"][0] for row in rows if row["method"] == "graph"}
    shown = []
    for row in rows:
        place = row["target"], row["factor"]
        if row["method"] in ABLATIONS and place in of_graph:
            shown.append({**row, "psnr_minus_graph": [row["psnr"][0] - of_graph[place]]})
    return over_factors(shown, "psnr_minus_graph")


def tuning_table(tried: Sequence[Row], rows: Sequence[Row]) -> str:
    """PSNR, and RMS of the slices, of what was tried beside what the study runs."""
    methods = {row["method"].partition(" ")[0] for row in tried}
    shown = [
        row for row in rows if row["factor"] == 5 and row["region"] == "mask" and row["method"] in methods
    ]
    both = [*shown, *tried]
    tables = ((words, over_factors(both, name)) for words, name in (
        ("PSNR, dB", "psnr"), ("RMS of the slices against those acquired", "consistency_rms"),
    ))  # fmt: skip
    return "\n".join(f"{words}:\n\n{table}" for words, table in tables)


def cost_table(rows: Sequence[Row]) -> str:
    """Mean seconds and peak memory of a method's cells, on the device that they ran on."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]

        def mean(name: str, own: Sequence[Row] = own) -> float:
            values = [row[name][0] for row in own if name in row]
            return sum(values) / len(values) if values else math.nan

        memory = (mean("peak_gpu_memory"), mean("peak_memory"))
        gib = ["–" if math.isnan(value) else f"{value / 1024:.1f}" for value in memory]
        devices = ", ".join(dict.fromkeys(row["device"] for row in own))
        lines.append([f"`{method}`", f"{mean('seconds'):.0f}", *gib, devices])
    return markdown(["", "seconds", "GPU, GiB", "host, GiB", "device"], lines)


def headline(content: Mapping[str, list[Row]]) -> str:
    """README's: what the app gains by default over cubic interpolation."""

    def gains(name: str, method: str, target: str) -> str:
        rows = [row for row in content[name] if row["region"] == "mask" and row["target"] == target]
        of = {(row["method"], row["factor"]): row["psnr"][0] for row in rows}
        factors = sorted(factor for own, factor in of if own == method)
        return ", ".join(f"{of[method, f] - of['cubic', f]:+.1f} (×{f})" for f in factors) or "–"

    n = max(row["n"] for row in content["heads"])
    lines = [
        [who, target, *(gains(name, f"{method}-default", target) for method in ("graph", "learned"))]
        for name, who in (
            ("stroke", "n = 1, a real brain; settings were chosen on it"),
            ("heads", f"n = {n}, simulated heads; nothing was chosen on them"),
        )
        for target in ("FLAIR", "T2w")
    ]
    measured = [line for line in lines if line[2:] != ["–", "–"]]
    return markdown(["PSNR over cubic, dB", "", "graph (CPU)", "learned (GPU)"], measured)


def _entry(row: Row, metric: str) -> str:
    if metric not in row:
        return "–"
    sign = "+" if "minus" in metric else ""
    digits = DIGITS.get("psnr" if "minus" in metric else metric, 3)
    mean, *interval = (f"{value:{sign}.{digits}f}" for value in row[metric])
    return f"{mean} [{', '.join(interval)}]" if interval else mean


def _several(row: Row, what: str, digits: int, sign: str = "") -> str:
    values = [row.get(f"{what}_{name}") for name in CLASSES]
    return " / ".join("–" if value is None else f"{value[0]:{sign}.{digits}f}" for value in values)


if __name__ == "__main__":
    sys.exit(main())
