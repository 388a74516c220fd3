"""How much of a wrong border in the T1w a restored image takes over: why refining a surface is circular.

    python benchmarks/circular.py --scans DIR [--out OUT] [--whole] [--document OUT/circular.json]

DIR/stroke holds T1.nii.gz, T2.nii.gz and FLAIR.nii.gz on one isotropic grid. The T1 is warped by a smooth
random displacement along one axis (RMS 1 mm, which changes over some 20 mm), the target's slices are not: a
restored image R' guided by the warped T1 is compared with R guided by the true one. What it follows is the
part of its own warp W(R) that it shows, Σ (R' − R)(W(R) − R) / Σ (W(R) − R)² over the brain: 0 where the
slices alone decide, 1 where the T1w alone does. An image interpolated from its slices has 0. The middle of
the brain, or with --whole all of it; ``--document`` writes the rows into docs/measured and their table into
docs/export.md.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from lesions import AXIS, FILES
from scipy import ndimage

from atlasgs_bids.imaging.nifti import load_volume, to_nifti
from atlasgs_bids.restoration.images import Result
from atlasgs_bids.restoration.restore import fit_scaffold, resolved, restore
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.study.simulation.degrade import simulate_thick_slices

CROP = (slice(30, 94), slice(44, 116), slice(40, 100))
RMS_MM, SMOOTH_MM = 1.0, 10.0
ACROSS = {"in plane": 0, "through the slices": AXIS}


def main() -> int:
    options = parse_options()
    if options.document is not None:
        document(options.document)
        return 0
    scans = options.scans / "stroke"
    if not (scans / "T1.nii.gz").exists():
        print(f"skipped: {scans} has no T1.nii.gz; give the scans' folder with --scans")
        return 0
    part = (slice(None),) * 3 if options.whole else CROP
    volumes = {name: load_volume(scans / f"{name}.nii.gz") for name in ("T1", *FILES.values())}
    images = {name: np.ascontiguousarray(volume.data[part]) for name, volume in volumes.items()}
    affine = volumes["T1"].world_from_voxel.copy()
    affine[:3, 3] += affine[:3, :3] @ [line.start or 0 for line in part]
    settings = resolved(RestorationSettings(device=options.device, prior="graph", registration="header",
                                            estimate_uncertainty=False))  # fmt: skip
    field = displacement(images["T1"].shape, np.random.default_rng(options.seed))
    anchors = {"true": images["T1"]}
    anchors |= {name: warped(images["T1"], field, axis) for name, axis in ACROSS.items()}
    made: dict[tuple[str, str, int], np.ndarray] = {}
    for warp, anchor in anchors.items():
        brain_mask = to_nifti(anchor > 0, affine, np.uint8)
        scaffold = fit_scaffold(to_nifti(anchor, affine), settings, brain_mask=brain_mask)
        for target, name in FILES.items():
            for factor in options.factors:
                slices, world_from_slices = simulate_thick_slices(images[name], affine, AXIS, factor)
                image = to_nifti(slices, world_from_slices)
                result = restore(scaffold, image, thickness_mm=float(factor), settings=settings)
                assert isinstance(result, Result)
                made[warp, target, factor] = result.target.sr
    rows = [
        {"target": target, "factor": factor, "across": name,
         "followed": followed(made["true", target, factor], made[name, target, factor], field, axis,
                              images["T1"] > 0)}
        for target in FILES for factor in options.factors for name, axis in ACROSS.items()
    ]  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "circular.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a restored image takes over from a wrong T1w.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--scans", type=Path, help="folder with stroke/*.nii.gz")
    what.add_argument("--document", type=Path, metavar="JSON", help="what was measured, into the documents")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    parser.add_argument("--factors", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--whole", action="store_true", help="the whole head")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def displacement(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Smooth, of RMS ``RMS_MM``, in voxels of 1 mm."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), SMOOTH_MM)
    field -= field.mean()
    return np.asarray(field * (RMS_MM / np.sqrt((field**2).mean())))


def warped(image: np.ndarray, field: np.ndarray, axis: int) -> np.ndarray:
    """The image displaced along an axis; what is not its brain stays 0."""
    coordinates = np.indices(image.shape, dtype=np.float32)
    coordinates[axis] += field
    brain = ndimage.map_coordinates((image > 0).astype(np.float32), coordinates, order=1, mode="nearest")
    found = ndimage.map_coordinates(image, coordinates, order=3, mode="nearest")
    return np.where(brain > 0.5, np.maximum(found, 1), 0).astype(np.float32)


def followed(
    true: np.ndarray, guided_wrongly: np.ndarray, field: np.ndarray, axis: int, brain: np.ndarray
) -> float:
    """Part of the displacement that the image shows."""
    own = (warped(true, field, axis) - true)[brain]
    return float(((guided_wrongly - true)[brain] * own).sum() / (own**2).sum())


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: per cent."""
    lines = ["| | " + " | ".join(ACROSS) + " |", "|---|" + "---|" * len(ACROSS)]
    for target, factor in dict.fromkeys((row["target"], row["factor"]) for row in rows):
        of_case = [row for row in rows if (row["target"], row["factor"]) == (target, factor)]
        found = {row["across"]: f"{100 * row['followed']:.0f} %" for row in of_case}
        lines.append(f"| {target} ×{factor} | " + " | ".join(found[name] for name in ACROSS) + " |")
    return "\n".join(lines) + "\n"


def document(path: Path) -> None:
    """Rows into docs/measured, their table in place of the one in docs/export.md."""
    docs = Path(__file__).parent.parent / "docs"
    rows = json.loads(path.read_text(encoding="utf-8"))
    (docs / "measured" / "circular.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    page = docs / "export.md"
    before, _, after = page.read_text(encoding="utf-8").partition("<!-- circular -->\n")
    kept = [line for line in after.split("\n") if not line.startswith("|")]
    text = "\n".join(kept).lstrip("\n")
    page.write_text(f"{before}<!-- circular -->\n\n{table(rows)}\n{text}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
