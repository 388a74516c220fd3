"""Thick slices simulated from real isotropic scans, restored by the app, scored against the truth.

    python benchmarks/real.py --scans DIR [-- further options of atlasgs]

DIR/stroke holds T1.nii.gz, T2.nii.gz and FLAIR.nii.gz: brain-extracted, isotropic, on one grid. They are
arranged as a BIDS dataset with one participant for each slice factor (x3, x5, x7); each participant is one
process of the app, timed, its peak memory taken from the operating system. Cubic is B-spline interpolation
at the true slice centres, with the same registration. Scores are taken where the T1 is above 0.
"""

import argparse
import dataclasses
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import nibabel as nib
import numpy as np
from rich.console import Console
from rich.table import Table

from atlasgs_bids import __version__
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.imaging.registration.register import read_itk_transform
from atlasgs_bids.study.results.scores import Scores, score_in_mask
from atlasgs_bids.study.simulation.degrade import simulate_thick_slices, true_slice_profile

SCAN_OF_SUFFIX = {"T1w": "T1", "FLAIR": "FLAIR", "T2w": "T2"}
SLICE_AXIS = 2
BLUR_SIGMA_VOXELS = 1.0


@dataclass(frozen=True)
class Usage:
    """What one process took."""

    wall_s: float
    peak_gib: float


@dataclass(frozen=True)
class Row:
    target: str
    factor: int
    cubic: Scores
    atlasgs: Scores
    gain_db: float
    process: Usage
    """Of the participant's process, which restores all of the participant's targets."""


def main() -> int:
    options = parse_options()
    stroke_dir = options.scans / "stroke"
    missing = [name for name in SCAN_OF_SUFFIX.values() if not (stroke_dir / f"{name}.nii.gz").exists()]
    if missing:
        print(f"skipped: {stroke_dir} has no {', '.join(missing)}; give the scans' folder with --scans")
        return 0
    bids_dir, out_dir = options.out / "bids", options.out / "atlasgs"
    for folder in (bids_dir, out_dir):
        shutil.rmtree(folder, ignore_errors=True)
    arrange_dataset(stroke_dir, bids_dir, options.factors, options.targets)

    rows = []
    for factor in options.factors:
        profile = write_profile(options, factor, stroke_dir)
        usage = run_app(
            [bids_dir, out_dir, "participant", "--participant-label", f"x{factor}"],
            ["--device", options.device, "--registration", options.registration],
            ["--slice-profile", profile, *options.further],
        )
        for target in options.targets:
            rows.append(score_target(stroke_dir, bids_dir, out_dir, target, factor, usage))
            print(f"{target} x{factor}: {rows[-1].gain_db:+.2f} dB over cubic", flush=True)
    write_report(options, rows)
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Restore simulated thick slices of real scans, and score.")
    parser.add_argument("--scans", type=Path, required=True, help="folder with stroke/{T1,T2,FLAIR}.nii.gz")
    parser.add_argument("--factors", type=int, nargs="+", default=[3, 5, 7])
    parser.add_argument("--targets", nargs="+", choices=["FLAIR", "T2w"], default=["FLAIR", "T2w"])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:n")
    parser.add_argument("--registration", choices=["header", "rigid"], default="header")
    parser.add_argument(
        "--profile", choices=["box", "true"], default="box", help="what the app is told of the slice profile"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    parser.add_argument("further", nargs="*", metavar="-- OPTION", help="further options of atlasgs")
    return parser.parse_args()


def arrange_dataset(stroke_dir: Path, bids_dir: Path, factors: list[int], targets: list[str]) -> None:
    """Participant x<factor> for each factor: the T1w as it is, the targets in thick slices."""
    bids_dir.mkdir(parents=True)
    description = {"Name": "Simulated thick slices", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    write_json(bids_dir / "dataset_description.json", description)
    (bids_dir / "README.md").write_text("# Simulated thick slices of real scans\n", encoding="utf-8")
    for factor in factors:
        stem = f"sub-x{factor}"
        anat_dir = bids_dir / stem / "anat"
        anat_dir.mkdir(parents=True)
        shutil.copyfile(stroke_dir / "T1.nii.gz", anat_dir / f"{stem}_T1w.nii.gz")
        write_json(anat_dir / f"{stem}_T1w.json", {"SkullStripped": True})
        for target in targets:
            fine = nib.Nifti1Image.from_filename(stroke_dir / f"{SCAN_OF_SUFFIX[target]}.nii.gz")
            slices, world_from_slices = simulate_thick_slices(
                np.asarray(fine.dataobj, dtype=np.float64), fine.affine, SLICE_AXIS, factor, BLUR_SIGMA_VOXELS
            )
            image = nib.Nifti1Image(slices, world_from_slices)
            image.set_sform(world_from_slices, 1)
            image.set_qform(world_from_slices, 1)
            image.header.set_xyzt_units("mm")
            nib.save(image, anat_dir / f"{stem}_{target}.nii.gz")
            thickness_mm = factor * float(fine.header.get_zooms()[SLICE_AXIS])
            write_json(
                anat_dir / f"{stem}_{target}.json", {"SliceThickness": thickness_mm, "SkullStripped": True}
            )


def write_profile(options: argparse.Namespace, factor: int, stroke_dir: Path) -> str | Path:
    """Value of --slice-profile: ``box``, or a file with the profile that the simulation truly has."""
    if options.profile == "box":
        return "box"
    t1 = nib.Nifti1Image.from_filename(stroke_dir / "T1.nii.gz")
    voxel_mm = float(t1.header.get_zooms()[SLICE_AXIS])
    path: Path = options.out / f"profile-x{factor}.txt"
    profile = np.column_stack(true_slice_profile(factor * voxel_mm, BLUR_SIGMA_VOXELS * voxel_mm))
    np.savetxt(path, profile, fmt="%.6f", header="offset_mm weight")
    return path


def run_app(*arguments: Sequence[str | Path]) -> Usage:
    """Wall time (s) and peak resident memory (GiB) of one run of atlasgs; ends this program if it fails."""
    words = [str(word) for part in arguments for word in part]
    print(f"$ atlasgs {shlex.join(words)}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "atlasgs_bids", *words])
    # wait4 gives this child's own peak; resource.getrusage would give the largest of all children so far.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.monotonic() - started
    if process.returncode != 0:
        sys.exit(f"atlasgs ended with exit code {process.returncode}")
    return Usage(wall_s, usage.ru_maxrss / 2**20)


def score_target(
    stroke_dir: Path, bids_dir: Path, out_dir: Path, target: str, factor: int, usage: Usage
) -> Row:
    """Cubic and AtlasGS of one target, against the scan that its slices came from."""
    stem = f"sub-x{factor}"
    truth = load_volume(stroke_dir / f"{SCAN_OF_SUFFIX[target]}.nii.gz")
    mask = load_volume(stroke_dir / "T1.nii.gz").data > 0
    transform = read_itk_transform(
        out_dir / stem / "anat" / f"{stem}_from-{target}_to-T1w_mode-image_xfm.txt"
    )
    slices = load_volume(bids_dir / stem / "anat" / f"{stem}_{target}.nii.gz")
    result = load_volume(out_dir / stem / "anat" / f"{stem}_space-T1w_res-iso_desc-sr_{target}.nii.gz")
    if result.data.shape != truth.data.shape:
        sys.exit(f"{stem} {target}: result has {result.data.shape} voxels, expected {truth.data.shape}")
    cubic = score_in_mask(truth.data, resample(slices, truth.grid, transform, order=3), mask)
    atlasgs = score_in_mask(truth.data, result.data, mask)
    return Row(target, factor, cubic, atlasgs, atlasgs.psnr_db - cubic.psnr_db, usage)


def write_report(options: argparse.Namespace, rows: list[Row]) -> None:
    """The table on the terminal, results.md and results.json in the output folder."""
    rows = sorted(rows, key=lambda row: (row.target, row.factor))
    columns = {
        "target": [row.target for row in rows],
        "factor": [f"x{row.factor}" for row in rows],
        "cubic PSNR": [f"{row.cubic.psnr_db:.2f}" for row in rows],
        "PSNR": [f"{row.atlasgs.psnr_db:.2f}" for row in rows],
        "gain dB": [f"{row.gain_db:+.2f}" for row in rows],
        "cubic SSIM": [f"{row.cubic.ssim:.3f}" for row in rows],
        "SSIM": [f"{row.atlasgs.ssim:.3f}" for row in rows],
        "cubic MAE": [f"{row.cubic.mae:.2f}" for row in rows],
        "MAE": [f"{row.atlasgs.mae:.2f}" for row in rows],
        "wall s": [f"{row.process.wall_s:.0f}" for row in rows],
        "peak GiB": [f"{row.process.peak_gib:.2f}" for row in rows],
    }
    cells = list(zip(*columns.values(), strict=True))
    setting = {
        "device": options.device,
        "registration": options.registration,
        "profile": options.profile,
        "options": options.further,
        "targets_per_process": len(options.targets),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("torch", "numpy", "numba")} | {"atlasgs": __version__},
    }
    table = Table(title=f"{options.device}, registration {options.registration}, profile {options.profile}")
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "target" else "right")
    for line in cells:
        table.add_row(*line)
    Console(width=120).print(table)
    print(f"wall and peak: one process restores {len(options.targets)} target(s), from start to end")

    lines = [" | ".join(line) for line in (columns, ["---"] * len(columns), *cells)]
    markdown = "\n".join(f"| {line} |" for line in lines)
    (options.out / "results.md").write_text(markdown + "\n", encoding="utf-8")
    write_json(
        options.out / "results.json", {"setting": setting, "rows": [dataclasses.asdict(row) for row in rows]}
    )
    print(f"{options.out / 'results.md'}\n{options.out / 'results.json'}")


def write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
