"""Whether the standard deviation and the mask of trust are right, region by region, on a scan with a truth.

    python benchmarks/trust.py --scans DIR --out OUT [--prior learned --device cuda]

DIR (or DIR/stroke) holds T1.nii.gz, T2.nii.gz and FLAIR.nii.gz: brain-extracted, isotropic, on one grid.
Lesions are put into the target alone (study/simulation/lesions.py), slices are simulated, T1w and slices go
through ``restore`` with its defaults: position and slice profile are found, not told. Against the truth:

- the part of each region's voxels whose error the 90 % interval holds (1.645 standard deviations), in the
  brain, on the T1w's edges, in the lesions, at their ends along the slice axis, where the truth is brightest
  (5 %), and where its contrast is least the T1w's (10 %);
- Spearman's correlation of |error| and standard deviation;
- the trusted mask: the part of the brain that it holds, the part of its voxels that err by more than half the
  local contrast, the same of the whole brain (a mask that is true everywhere), and what the slices promised.

OUT/trust.json and .md hold the rows of all runs into it; ``--document OUT/trust.json`` writes them into
docs/measured and their table into docs/benchmarks.md.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from documents import DOCS, put_between, stored, with_row
from lesions import AXIS, FILES, load_head
from scipy import ndimage, stats

from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.imaging.nifti import to_nifti
from atlasgs_bids.restoration.images import Result
from atlasgs_bids.restoration.restore import fit_scaffold, resolved, restore
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.study.simulation.degrade import Degradation, with_rician_noise
from atlasgs_bids.study.simulation.lesions import PHASES, Implanted, implant, place_lesions, wishes

KINDS = ("target", "dark")
SIZES_MM = (4.0, 6.0, 8.0, 12.0)
NORMAL_90 = 1.645
WINDOW, CONTRAST_WINDOW = 2.5, 3.0
"""σ, voxels: in which the target is explained by the T1w; whose standard deviation is the contrast."""


def main() -> int:
    options = parse_options()
    if options.document is not None:
        document(options.document)
        return 0
    scans = options.scans / "stroke" if (options.scans / "stroke").is_dir() else options.scans
    if not (scans / "T1.nii.gz").exists():
        print(f"skipped: {scans} has no T1.nii.gz; give the scan's folder with --scans")
        return 0
    settings = resolved(RestorationSettings(device=options.device, prior=options.prior))
    scaffold: SessionScaffold | None = None
    for target in options.targets:
        head, white, affine = load_head(scans, argparse.Namespace(target=target, crop=options.crop))
        if scaffold is None:
            scaffold = fit_scaffold(
                to_nifti(head.anchor, affine),
                settings,
                brain_mask=to_nifti(head.anchor > 0, affine, np.uint8),
            )
        for factor in options.factors:
            rng = np.random.default_rng(options.seed)
            wanted = wishes(KINDS, SIZES_MM, PHASES, rng)
            lesions = place_lesions(white, head.fluid, wanted, AXIS, factor, rng)
            implanted = implant(head, lesions)
            for percent in options.noise:
                started = time.perf_counter()
                result = restored(implanted, affine, scaffold, factor, percent, settings)
                seconds = time.perf_counter() - started
                setting = {"target": target, "factor": factor, "noise": percent, "prior": options.prior}
                row = setting | scores(implanted, result, factor) | {"seconds": seconds}
                print(json.dumps(row), flush=True)
                add(options.out, row)
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Coverage of the intervals and risk of the trusted mask.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--scans", type=Path, help="folder with {T1,T2,FLAIR}.nii.gz")
    what.add_argument("--document", type=Path, metavar="JSON", help="what was measured, into the documents")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    parser.add_argument("--targets", nargs="+", choices=FILES, default=list(FILES))
    parser.add_argument("--factors", type=int, nargs="+", default=[3, 5, 7])
    parser.add_argument(
        "--noise", type=float, nargs="+", default=[0.0, 1.0, 3.0], help="% of the 99th percentile"
    )
    parser.add_argument("--prior", choices=["graph", "learned"], default="graph")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--crop", action="store_true", help="the middle of the head only, for a CPU")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def restored(
    implanted: Implanted,
    affine: np.ndarray,
    scaffold: SessionScaffold,
    factor: int,
    percent: float,
    settings: RestorationSettings,
) -> Result:
    truth = implanted.target
    slices, world_from_slices = Degradation("paper", AXIS, factor).slices(truth, affine)
    noise_sd = percent / 100 * float(np.percentile(truth[truth > 0], 99))
    slices = with_rician_noise(slices, noise_sd, np.random.default_rng(1))
    found = restore(
        scaffold, to_nifti(slices, world_from_slices), thickness_mm=float(factor), settings=replace(settings)
    )
    assert isinstance(found, Result)
    return found


def scores(implanted: Implanted, result: Result, factor: int) -> dict[str, Any]:
    """One row; n of the lesions beside it."""
    target, truth = result.target, implanted.target
    assert target.sd is not None
    brain = (implanted.healthy.anchor > 0) & target.fov & target.inside
    error, sd = np.abs(target.sr - truth), target.sd
    found = {
        f"inside_{name}": float((error <= NORMAL_90 * sd)[where].mean())
        for name, where in regions(implanted, brain, factor).items()
    }
    half_contrast = local_sd(target.sr, brain) / 2
    wrong = error > half_contrast
    row: dict[str, Any] = {
        "n_lesions": len(implanted.lesions),
        "psnr": psnr_db(truth, target.sr, brain),
        "rank_correlation": float(stats.spearmanr(error[brain][::7], sd[brain][::7])[0]),
        "rms_sd_over_rms_error": float(np.sqrt((sd[brain] ** 2).mean() / (error[brain] ** 2).mean())),
        **found,
        "risk_everywhere": float(wrong[brain].mean()),
    }
    if target.trust is not None:
        mask = target.trust.mask & brain
        row |= {
            "trusted": float(mask.sum() / brain.sum()),
            "risk": float(wrong[mask].mean()) if mask.any() else None,
            "promised": target.trust.risk,
            "promised_everywhere": target.trust.risk_everywhere,
            "n_slices": target.trust.n_slices,
        }
    return row


def regions(implanted: Implanted, brain: np.ndarray, factor: int) -> dict[str, np.ndarray]:
    """Voxels of the brain, by name."""
    anchor, truth = implanted.healthy.anchor, implanted.target
    balls, ends = np.zeros(brain.shape, bool), np.zeros(brain.shape, bool)
    for lesion in implanted.lesions:
        box = lesion.box(brain.shape)
        ball = lesion.ball(brain.shape)
        balls[box] |= ball
        offset = np.arange(box[AXIS].start, box[AXIS].stop) - lesion.centre[AXIS]
        ends[box] |= ball & (np.abs(offset) > lesion.radius_vox - factor / 4)
    return {
        "all": brain,
        "edges": steepest(anchor, brain),
        "lesions": brain & balls,
        "lesion_ends": brain & ends,
        "brightest": brain & (truth > np.percentile(truth[brain], 95)),
        "own_contrast": least_explained(truth, anchor, brain),
    }


def steepest(anchor: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """15 % of the brain."""
    slope = np.sqrt(sum(part**2 for part in np.gradient(anchor)))
    return np.asarray(brain & (slope > np.percentile(slope[brain], 85)))


def least_explained(truth: np.ndarray, anchor: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """The tenth of the brain in which the truth's contrast is least the anchor's."""
    alone = np.abs(truth - explained(truth, anchor, brain))
    return np.asarray(brain & (alone > np.percentile(alone[brain], 90)))


def explained(image: np.ndarray, guide: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """The part of an image that is linear in the guide around each voxel."""
    mean_image, mean_guide = (local_mean(own, brain, WINDOW) for own in (image, guide))
    covariance = local_mean(image * guide, brain, WINDOW) - mean_image * mean_guide
    variance = np.maximum(local_mean(guide**2, brain, WINDOW) - mean_guide**2, 0)
    slope = covariance / (variance + 1e-3 * np.percentile(guide[brain], 99) ** 2)
    fitted: np.ndarray = mean_image + slope * (guide - mean_guide)
    return fitted


def local_sd(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    mean = local_mean(image, brain, CONTRAST_WINDOW)
    variance = local_mean(image**2, brain, CONTRAST_WINDOW) - mean**2
    return np.asarray(np.sqrt(np.maximum(variance, 0)))


def local_mean(image: np.ndarray, brain: np.ndarray, sigma: float) -> np.ndarray:
    share = ndimage.gaussian_filter(brain.astype(np.float32), sigma)
    total = ndimage.gaussian_filter(np.where(brain, image, 0).astype(np.float32), sigma)
    return np.asarray(total / np.maximum(share, 1e-3))


def add(out_dir: Path, row: dict[str, Any]) -> None:
    setting, order = ("target", "factor", "noise", "prior"), ("prior", "target", "factor", "noise")
    rows = with_row(out_dir / "trust.json", row, setting, order, 2)
    (out_dir / "trust.md").write_text(table(rows), encoding="utf-8")


def document(measured: Path) -> None:
    """The rows into docs/measured, their table between the marks in docs/benchmarks.md."""
    rows = json.loads(measured.read_text(encoding="utf-8"))
    stored(rows, "trust.json")
    put_between(DOCS / "benchmarks.md", "trust", table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    inside = [name for name in rows[0] if name.startswith("inside_")]
    names = [
        *(name.removeprefix("inside_").replace("_", " ") for name in inside),
        "ρ",
        "trusted",
        "risk",
        "everywhere",
        "promised",
    ]
    lines = ["| case | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for row in rows:
        cells = [f"{100 * row[name]:.0f}" for name in inside] + [f"{row['rank_correlation']:.2f}"]
        shares = [row.get(name) for name in ("trusted", "risk", "risk_everywhere", "promised")]
        cells += ["" if share is None else f"{100 * share:.0f}" for share in shares]
        case = f"{row['prior']} {row['target']} ×{row['factor']} {row['noise']:g} %"
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
