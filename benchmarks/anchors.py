"""Whatever isotropic scan there is as the anchor: how faithful the restored images are beside the T1w's.

    python benchmarks/anchors.py --scans DIR [--known] [--slab N] [-- further options of atlasgs]

DIR/stroke holds T1.nii.gz, T2.nii.gz and FLAIR.nii.gz, isotropic on one grid. Each of them is the one
isotropic scan of a participant whose others are thick slices of one head; the app finds its anchor. With
--known it is told position and profile; --slab N leaves N axial planes of the scans. The phantom (MNI152's
tissues, 2 mm) has a T1w, or an MP2RAGE: its UNIT1 with and without the inversions, and called a T1w, so that
its air is not made silent.

PSNR in dB: of stroke where the T1 is above 0, of the phantom in the brain; cubic is B-spline interpolation by
the headers.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from real import SCAN_OF_SUFFIX, run_app, write_json, write_profile, write_slices
from rich.console import Console
from rich.table import Table

from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import load_volume, to_nifti
from atlasgs_bids.imaging.volume import Volume

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.imaging import mp2rage, phantom

PHANTOM_MM, PHANTOM_NOISE = 2, 2.0


@dataclass(frozen=True)
class Case:
    """A participant: one anchor, and thick slices of some targets."""

    label: str
    said: str
    """What the table calls the anchor."""
    truths: Mapping[str, Volume]
    mask: npt.NDArray[np.bool_]
    profile: str
    """What the app is told with --known."""


def main() -> int:
    options = parse_options()
    bids_dir, out_dir = options.out / "bids", options.out / "atlasgs"
    for folder in (bids_dir, out_dir):
        shutil.rmtree(folder, ignore_errors=True)
    bids_dir.mkdir(parents=True)
    description = {"Name": "Anchors", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    write_json(bids_dir / "dataset_description.json", description)
    (bids_dir / "README.md").write_text("# One isotropic scan each\n", encoding="utf-8")
    cases = [*phantom_cases(bids_dir, options.factor)]
    if options.scans is not None:
        cases += stroke_cases(options, bids_dir)
    common = ["--device", options.device, "--skip-bids-validation", "--no-uncertainty", "--no-viewer"]
    rows = []
    for case in cases:
        told = ["--registration", "header", "--slice-profile", case.profile] if options.known else []
        participant = [bids_dir, out_dir, "participant", "--participant-label", case.label]
        run_app(participant, common, told, options.further)
        rows += [scored(case, target, bids_dir, out_dir) for target in case.truths]
    report(rows, options.out)
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Restore after a T1w, UNIT1, T2w or FLAIR, and score.")
    parser.add_argument(
        "--scans", type=Path, help="folder with stroke/{T1,T2,FLAIR}.nii.gz; default: phantom"
    )
    parser.add_argument("--known", action="store_true", help="tell the app position and profile")
    parser.add_argument("--slab", type=int, help="axial planes of the scans, from the middle; default: all")
    parser.add_argument("--factor", type=int, default=5, help="voxels in a slice")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:n")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    parser.add_argument("further", nargs="*", metavar="-- OPTION", help="further options of atlasgs")
    return parser.parse_args()


def stroke_cases(options: argparse.Namespace, bids_dir: Path) -> Iterator[Case]:
    stroke_dir, factor = options.scans / "stroke", options.factor
    profile = str(write_profile(options, factor, stroke_dir))
    if options.slab is not None:
        stroke_dir = slab_of(stroke_dir, options.out / "stroke", options.slab)
    mask = load_volume(stroke_dir / "T1.nii.gz").data > 0
    for anchor, name in SCAN_OF_SUFFIX.items():
        label = f"stroke{anchor}"
        anat_dir = bids_dir / f"sub-{label}" / "anat"
        anat_dir.mkdir(parents=True)
        shutil.copyfile(stroke_dir / f"{name}.nii.gz", anat_dir / f"sub-{label}_{anchor}.nii.gz")
        write_json(anat_dir / f"sub-{label}_{anchor}.json", {"SkullStripped": True})
        targets = [target for target in SCAN_OF_SUFFIX if target not in (anchor, "T1w")]
        for target in targets:
            write_slices(stroke_dir, anat_dir / f"sub-{label}_{target}.nii.gz", target, factor, np.eye(4))
        truths = {t: load_volume(stroke_dir / f"{SCAN_OF_SUFFIX[t]}.nii.gz") for t in targets}
        yield Case(label, anchor, truths, mask, profile)


def slab_of(stroke_dir: Path, slab_dir: Path, n_planes: int) -> Path:
    """The middle axial planes of the scans."""
    slab_dir.mkdir(parents=True, exist_ok=True)
    for name in SCAN_OF_SUFFIX.values():
        image = nib.Nifti1Image.from_filename(stroke_dir / f"{name}.nii.gz")
        first = (image.shape[2] - n_planes) // 2
        nib.save(image.slicer[:, :, first : first + n_planes], slab_dir / f"{name}.nii.gz")
    return slab_dir


def phantom_cases(bids_dir: Path, factor: int) -> Iterator[Case]:
    t1w = phantom.head(phantom.T1W, PHANTOM_MM, noise=PHANTOM_NOISE)
    truth = phantom.head(phantom.FLAIR, PHANTOM_MM)
    mask = phantom.head(phantom.FLAIR, PHANTOM_MM, with_scalp=False).data > 0
    shape, affine = phantom.stack_affine(truth, 2, PHANTOM_MM, factor * PHANTOM_MM)
    slices = phantom.acquire(truth, shape, affine, np.eye(4), PHANTOM_NOISE)
    unit1 = mp2rage.unit1(PHANTOM_MM)
    second = mp2rage.inversions(PHANTOM_MM)[1]
    anchors = {
        "T1w": {"T1w": t1w},
        "UNIT1 and its inversions": {"UNIT1": unit1, "inv-2_MP2RAGE": second},
        "UNIT1 alone": {"UNIT1": unit1},
        "UNIT1 as it is, called T1w": {"T1w": unit1},
    }
    for number, (said, images) in enumerate(anchors.items(), start=1):
        label = f"phantom{number}"
        anat_dir = bids_dir / f"sub-{label}" / "anat"
        anat_dir.mkdir(parents=True)
        for name, image in {**images, "FLAIR": slices}.items():
            nib.save(to_nifti(image.data, image.world_from_voxel), anat_dir / f"sub-{label}_{name}.nii.gz")
        write_json(anat_dir / f"sub-{label}_FLAIR.json", {"SliceThickness": factor * PHANTOM_MM})
        yield Case(label, said, {"FLAIR": truth}, mask, "box")


def scored(case: Case, target: str, bids_dir: Path, out_dir: Path) -> dict[str, str | float]:
    """PSNR of the result and of interpolation, and what the metrics say of the anchor."""
    stem, truth = f"sub-{case.label}", case.truths[target]
    slices = load_volume(bids_dir / stem / "anat" / f"{stem}_{target}.nii.gz")
    (path,) = (out_dir / stem / "anat").glob(f"{stem}_space-*_res-iso_desc-sr_{target}.nii.gz")
    result = load_volume(path)
    return {
        "head": "stroke" if "stroke" in case.label else "phantom",
        "anchor": case.said,
        "space": path.name.split("_space-")[1].split("_")[0],
        "target": target,
        "cubic": psnr_db(truth.data, resample(slices, truth.grid, order=3), case.mask),
        "atlasgs": psnr_db(truth.data, resample(result, truth.grid, order=3), case.mask),
    }


def report(rows: list[dict[str, str | float]], out: Path) -> None:
    table = Table(*rows[0], title="PSNR, dB")
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else value for value in row.values()))
    Console(width=120).print(table)
    (out / "anchors.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
