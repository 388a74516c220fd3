"""Whether the standard deviations of a series are right, kind by kind, on simulated series with a truth.

    python benchmarks/series_trust.py --scans DIR --out OUT [--series dwi asl] [--noise 1 3] [--slab 36]
    python benchmarks/series_trust.py --document OUT/series_trust.json

The diffusion series is that of series.py, the pCASL series that of perfusion.py, at other noise: in per
cent of the 95th percentile of b0, or of control (a tenth of M0's). The app restores them with its defaults.
Against the truth, all volumes of a kind together:

- the part of each region's voxels whose error the 90 % interval holds (1.645 times the volume's map of
  desc-srstd): in the brain, on the T1w's edges (steepest 15 %), where the truth's contrast is least the T1w's
  (10 %);
- Spearman's correlation of |error| and standard deviation;
- the RMS standard deviation over the RMS error, and that of the noise alone (desc-srnoisestd);
- the seconds that the maps take, of all that the app takes;
- of control minus label, means of all: the same with √(2/n) times the noise alone, which is what differs
  between volumes.

OUT/series_trust.json holds the rows of all runs into it; ``--document`` writes them into docs/measured and
their table into docs/benchmarks.md.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import perfusion
import series
from documents import DOCS, Row, markdown, put_between, stored, with_row
from scipy import stats
from trust import NORMAL_90, least_explained, steepest

from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.runtime.files import load_json, load_tsv

REGIONS = ("all", "edges", "own_contrast")
SETTING = ("series", "thickness", "noise", "prior", "kind")

Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Simulated:
    """A dataset with one series, and what is true of it."""

    bids_dir: Path
    anchor: Volume
    truth: Sequence[Image]
    """Of each volume, on the anchor's grid."""


def main() -> int:
    options = parse_options()
    if options.document is not None:
        rows = json.loads(options.document.read_text(encoding="utf-8"))
        stored(rows, "series_trust.json")
        put_between(DOCS / "benchmarks.md", "series trust", table(rows))
        return 0
    if not all((options.scans / "stroke" / f"{name}.nii.gz").exists() for name in ("T1", "T2")):
        print(f"skipped: {options.scans}/stroke has no T1.nii.gz and T2.nii.gz; give the folder with --scans")
        return 0
    for name in options.series:
        for thickness in options.thickness:
            for percent in options.noise:
                simulated = SIMULATED[name](options, thickness, percent)
                for prior in options.priors:
                    out_dir, costs = series.run_app(simulated.bids_dir, prior, options)
                    costs = {"seconds": costs["seconds"], "seconds_uncertainty": seconds_uncertainty(out_dir)}
                    setting = {"series": name, "thickness": thickness, "noise": percent, "prior": prior}
                    for row in scores(simulated, out_dir):
                        print(json.dumps(setting | row | costs), flush=True)
                        path = options.out / "series_trust.json"
                        with_row(path, setting | row | costs, SETTING, SETTING, 1)
    return 0


def parse_options() -> argparse.Namespace:
    if "--document" in sys.argv:
        parser = argparse.ArgumentParser(description="Measured rows into the documents.")
        parser.add_argument("--document", type=Path, required=True, metavar="JSON")
        return parser.parse_args()
    parser = series.parser_of_series("Coverage of the intervals of restored series.", [4])
    parser.add_argument("--series", nargs="+", choices=["dwi", "asl"], default=["dwi", "asl"])
    parser.add_argument("--noise", type=float, nargs="+", default=[1.0, 3.0], help="per cent")
    parser.add_argument("--volumes", type=int, default=12, help="of the diffusion series")
    parser.set_defaults(document=None, priors=["graph"], out=Path("benchmark-output/series_trust"))
    return parser.parse_args()


def diffusion(options: argparse.Namespace, thickness: int, percent: float) -> Simulated:
    case = series.simulated_case(options, thickness, percent / 100)
    return Simulated(case.bids_dir, series.stroke_pair(options)[0], case.truth.volumes)


def labelling(options: argparse.Namespace, thickness: int, percent: float) -> Simulated:
    head = perfusion.head_of(options)
    bids_dir, truth, _ = perfusion.simulated(head, thickness, perfusion.SUPPRESSION * percent / 100, options)
    return Simulated(bids_dir, head.anchor, truth)


SIMULATED = {"dwi": diffusion, "asl": labelling}


def scores(simulated: Simulated, out_dir: Path) -> list[Row]:
    """A row for each kind of volume; of a perfusion series for control minus label as well."""
    restored, sd, noise_sd, fov = (
        np.asarray(
            nib.Nifti1Image.from_filename(next(out_dir.glob(f"sub-*/*/*_desc-{name}.nii.gz"))).dataobj,
            np.float32,
        )
        for name in ("sr_*", "srstd_*", "srnoisestd_*", "*fov_mask")
    )
    about = load_json(next(out_dir.glob("sub-*/*/*_desc-srstd_*.json")))
    kinds, of_volume = about["Kinds"], np.array(about["MapOfVolume"])
    brain = (simulated.anchor.data > 0) & (fov > 0)
    found = []
    for k, kind in enumerate(kinds):
        volumes = np.flatnonzero(of_volume == k).tolist()
        errors = [restored[..., v] - simulated.truth[v] for v in volumes]
        row = coverage(
            simulated.anchor.data, [simulated.truth[v] for v in volumes], errors, sd[..., k], brain
        )
        alone = float(np.sqrt((noise_sd[..., k][brain] ** 2).mean()))
        found.append({"kind": kind, **row, "rms_noise_sd": alone})
    if {"control", "label"} <= set(kinds):
        sides = [np.flatnonzero(of_volume == kinds.index(kind)) for kind in ("control", "label")]
        means = [restored[..., own].mean(3) for own in sides]
        truths = [simulated.truth[own[0]] for own in sides]
        scale = np.float32((1 / len(sides[0]) + 1 / len(sides[1])) ** 0.5)
        of_noise = scale * noise_sd[..., kinds.index("control")]
        truth, error = truths[0] - truths[1], means[0] - means[1] - (truths[0] - truths[1])
        found.append(
            {"kind": "difference", **coverage(simulated.anchor.data, [truth], [error], of_noise, brain)}
        )
    return found


def seconds_uncertainty(out_dir: Path) -> float:
    (table,) = out_dir.glob("sub-*/*/*_desc-sr_metrics.tsv")
    return float(load_tsv(table)[0]["seconds_uncertainty"])


def coverage(
    anchor: Image, truths: Sequence[Image], errors: Sequence[Image], sd: Image, brain: npt.NDArray[np.bool_]
) -> Row:
    """Means over the volumes of one kind, which share a map."""
    edges = steepest(anchor, brain)
    rows: list[dict[str, float]] = []
    for truth, error in zip(truths, errors, strict=True):
        own = least_explained(truth, anchor, brain)
        size = np.abs(error)
        inside = size <= NORMAL_90 * sd
        rows.append(
            {
                f"inside_{name}": float(inside[where].mean())
                for name, where in zip(REGIONS, (brain, edges, own), strict=True)
            }
            | {
                "rank_correlation": float(stats.spearmanr(size[brain][::7], sd[brain][::7])[0]),
                "square": float((error[brain] ** 2).mean()),
            }
        )
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    rms_error, rms_sd = means.pop("square") ** 0.5, float(np.sqrt((sd[brain] ** 2).mean()))
    return {"n_volumes": len(rows), **means, "rms_error": rms_error, "rms_sd": rms_sd}


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    regions = [name.replace("_", " ") for name in REGIONS]
    head = ["series", "of", "volumes", *regions, "ρ", "RMS sd / error", "noise", "s"]
    lines = []
    for row in rows:
        cells: list[Any] = [f"{row['series']} {row['thickness']} mm {row['noise']:g} % {row['prior']}"]
        cells += [row["kind"], row["n_volumes"], *(f"{100 * row[f'inside_{name}']:.0f}" for name in REGIONS)]
        cells += [f"{row['rank_correlation']:.2f}", f"{row['rms_sd'] / row['rms_error']:.2f}"]
        noise = row.get("rms_noise_sd")
        cells.append("" if noise is None else f"{noise / row['rms_error']:.2f}")
        cells.append(f"{row['seconds_uncertainty']:.0f} of {row['seconds']:.0f}")
        lines.append(list(map(str, cells)))
    return markdown(head, lines)


if __name__ == "__main__":
    sys.exit(main())
