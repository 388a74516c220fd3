"""Thick slices simulated from real isotropic scans, restored by the app, scored against the truth.

    python benchmarks/real.py --scans DIR [-- further options of atlasgs]

DIR/stroke holds T1.nii.gz, T2.nii.gz and FLAIR.nii.gz: brain-extracted, isotropic, on one grid. They are
arranged as a BIDS dataset with one participant for each slice factor (x3, x5, x7) and, with --motions, for
each of up to six rigid motions that its targets' headers make. Each participant is one process of the app,
timed, its peak memory taken from the operating system. The app is run as it comes, with its defaults: nothing
is said of position or profile. With --known, the same is run beside it that is told both (--registration
header, the profile of the simulation), of the head that did not move.

Cubic is B-spline interpolation at the true slice centres, and "spline" the smoothest lines that, seen through
the slice profile that the app used, give the slices; both with the app's registration. Scores are taken where
the T1 is above 0: by headers, and in the target's own frame, where the result is sampled at the truth's
points through the program's own transform, so that a wrong position costs only what it does to the guidance.
"""

import argparse
import dataclasses
import json
import math
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
from scipy.spatial.transform import Rotation

from atlasgs_bids import __version__
from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.imaging.profile import profile_with_sd
from atlasgs_bids.imaging.registration.itk_files import read_itk_transform
from atlasgs_bids.imaging.registration.register import apart_mm
from atlasgs_bids.study.methods.spline import splined
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
    motion: int
    """0: none."""
    cubic: Scores
    spline_psnr_db: float
    atlasgs: Scores
    own_frame_psnr_db: float
    gain_db: float
    below_known_db: float | None
    """By how much the run that is told position and profile is better; None: it was not asked for."""
    error_mm: float
    """Mean distance over the head between the app's position and that of the headers before the motion."""
    profile_sd_mm: float | None
    process: Usage
    """Of the participant's process, which restores all of the participant's targets."""


def main() -> int:
    options = parse_options()
    stroke_dir = options.scans / "stroke"
    missing = [name for name in SCAN_OF_SUFFIX.values() if not (stroke_dir / f"{name}.nii.gz").exists()]
    if missing:
        print(f"skipped: {stroke_dir} has no {', '.join(missing)}; give the scans' folder with --scans")
        return 0
    bids_dir, out_dir, known_dir = options.out / "bids", options.out / "atlasgs", options.out / "known"
    for folder in (bids_dir, out_dir, known_dir):
        shutil.rmtree(folder, ignore_errors=True)
    arrange_dataset(stroke_dir, bids_dir, options)
    common = ["--device", options.device]
    rows = []
    for factor in options.factors:
        known = {}
        if options.known:
            profile = str(write_profile(options, factor, stroke_dir))
            told = ["--registration", "header", "--slice-profile", profile]
            label = participant(factor, 0)
            participant_of = [bids_dir, known_dir, "participant", "--participant-label", label]
            run_app(participant_of, common, told, options.further)
            known = {t: result_score(stroke_dir, known_dir, label, t).psnr_db for t in options.targets}
        for motion in range(options.motions + 1):
            label = participant(factor, motion)
            participant_of = [bids_dir, out_dir, "participant", "--participant-label", label]
            usage = run_app(participant_of, common, options.further)
            for target in options.targets:
                row = score_target(options, target, factor, motion, usage, known.get(target))
                rows.append(row)
                below = "" if row.below_known_db is None else f", {row.below_known_db:+.2f} dB to known"
                print(f"{target} {label}: {row.gain_db:+.2f} dB over cubic{below}", flush=True)
    write_report(options, rows)
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Restore simulated thick slices of real scans, and score.")
    parser.add_argument("--scans", type=Path, required=True, help="folder with stroke/{T1,T2,FLAIR}.nii.gz")
    parser.add_argument("--factors", type=int, nargs="+", default=[3, 5, 7])
    parser.add_argument("--targets", nargs="+", choices=["FLAIR", "T2w"], default=["FLAIR", "T2w"])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:n")
    parser.add_argument("--motions", type=int, default=0, choices=range(7), help="rigid motions beside none")
    parser.add_argument("--known", action="store_true", help="also run what is told position and profile")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    parser.add_argument("further", nargs="*", metavar="-- OPTION", help="further options of atlasgs")
    return parser.parse_args()


def participant(factor: int, motion: int) -> str:
    return f"x{factor}m{motion}"


def motion_of(factor: int, number: int, centre_world: np.ndarray) -> np.ndarray:
    """(4, 4) motion of the head: none, or one of up to 3 mm and 4 degrees along each axis, off the grid."""
    if number == 0:
        return np.eye(4)
    rng = np.random.default_rng([factor, number])
    return moved_by(rng.uniform(-3, 3, 3), rng.uniform(-4, 4, 3), centre_world)


def moved_by(shift_mm: np.ndarray, angles_deg: np.ndarray, centre_world: np.ndarray) -> np.ndarray:
    """(4, 4) turn by a rotation vector about the centre, then the shift."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec(np.radians(angles_deg)).as_matrix()
    motion[:3, 3] = centre_world + shift_mm - motion[:3, :3] @ centre_world
    return motion


def head_points(stroke_dir: Path) -> np.ndarray:
    """(n, 3) points where the T1 is above 0, world."""
    t1 = load_volume(stroke_dir / "T1.nii.gz")
    return np.argwhere(t1.data > 0)[::50] @ t1.world_from_voxel[:3, :3].T + t1.world_from_voxel[:3, 3]


def arrange_dataset(stroke_dir: Path, bids_dir: Path, options: argparse.Namespace) -> None:
    """Participants x<factor>m<motion>: the T1w as it is, the targets in thick slices of the moved head."""
    bids_dir.mkdir(parents=True)
    description = {"Name": "Simulated thick slices", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    write_json(bids_dir / "dataset_description.json", description)
    (bids_dir / "README.md").write_text("# Simulated thick slices of real scans\n", encoding="utf-8")
    centre_world = head_points(stroke_dir).mean(axis=0)
    for factor in options.factors:
        for number in range(options.motions + 1):
            stem = f"sub-{participant(factor, number)}"
            anat_dir = bids_dir / stem / "anat"
            anat_dir.mkdir(parents=True)
            shutil.copyfile(stroke_dir / "T1.nii.gz", anat_dir / f"{stem}_T1w.nii.gz")
            write_json(anat_dir / f"{stem}_T1w.json", {"SkullStripped": True})
            motion = motion_of(factor, number, centre_world)
            for target in options.targets:
                write_slices(stroke_dir, anat_dir / f"{stem}_{target}.nii.gz", target, factor, motion)


def write_slices(stroke_dir: Path, path: Path, target: str, factor: int, motion: np.ndarray) -> None:
    fine = nib.Nifti1Image.from_filename(stroke_dir / f"{SCAN_OF_SUFFIX[target]}.nii.gz")
    slices, world_from_slices = simulate_thick_slices(
        np.asarray(fine.dataobj, dtype=np.float64), fine.affine, SLICE_AXIS, factor, BLUR_SIGMA_VOXELS
    )
    image = nib.Nifti1Image(slices, motion @ world_from_slices)
    image.set_sform(motion @ world_from_slices, 1)
    image.set_qform(motion @ world_from_slices, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    thickness_mm = factor * float(fine.header.get_zooms()[SLICE_AXIS])
    sidecar = {"SliceThickness": thickness_mm, "SkullStripped": True}
    write_json(path.with_name(path.name.replace(".nii.gz", ".json")), sidecar)


def write_profile(options: argparse.Namespace, factor: int, stroke_dir: Path) -> Path:
    """A file with the profile that the simulation truly has."""
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
    options: argparse.Namespace, target: str, factor: int, motion: int, usage: Usage, known_db: float | None
) -> Row:
    """Cubic, spline and AtlasGS of one target, against the scan that its slices came from."""
    stroke_dir, label = options.scans / "stroke", participant(factor, motion)
    anat_dir, stem = options.out / "atlasgs" / f"sub-{label}" / "anat", f"sub-{label}"
    truth = load_volume(stroke_dir / f"{SCAN_OF_SUFFIX[target]}.nii.gz")
    mask = load_volume(stroke_dir / "T1.nii.gz").data > 0
    points = head_points(stroke_dir)
    moved = motion_of(factor, motion, points.mean(axis=0))
    target_from_anchor = read_itk_transform(anat_dir / f"{stem}_from-{target}_to-T1w_mode-image_xfm.txt")
    slices = load_volume(options.out / "bids" / stem / "anat" / f"{stem}_{target}.nii.gz")
    result_path = anat_dir / f"{stem}_space-T1w_res-iso_desc-sr_{target}.nii.gz"
    result = load_volume(result_path)
    sidecar = json.loads(result_path.with_name(result_path.name.replace(".nii.gz", ".json")).read_text())
    profile_sd_mm = sidecar.get("SliceProfileSD")
    thickness_mm = sidecar["SliceThicknessUsed"]
    sd_mm = thickness_mm / math.sqrt(12) if profile_sd_mm is None else profile_sd_mm
    lines = splined(slices, SLICE_AXIS, profile_with_sd(sd_mm, thickness_mm), 1.0)
    # A point of the truth, in the world of the moved target, is where the program says in that of the T1w.
    anchor_from_truth = np.linalg.inv(target_from_anchor) @ moved
    own = resample(result, truth.grid, anchor_from_truth, order=3)
    cubic = score_in_mask(truth.data, resample(slices, truth.grid, target_from_anchor, order=3), mask)
    atlasgs = result_score(stroke_dir, options.out / "atlasgs", label, target)
    return Row(
        target=target,
        factor=factor,
        motion=motion,
        cubic=cubic,
        spline_psnr_db=psnr_db(truth.data, resample(lines, truth.grid, target_from_anchor, order=3), mask),
        atlasgs=atlasgs,
        own_frame_psnr_db=psnr_db(truth.data, own, mask),
        gain_db=atlasgs.psnr_db - cubic.psnr_db,
        below_known_db=None if known_db is None else known_db - atlasgs.psnr_db,
        error_mm=apart_mm(target_from_anchor, moved, points),
        profile_sd_mm=profile_sd_mm,
        process=usage,
    )


def result_score(stroke_dir: Path, out_dir: Path, label: str, target: str) -> Scores:
    """The app's result against the truth, by headers."""
    stem = f"sub-{label}"
    truth = load_volume(stroke_dir / f"{SCAN_OF_SUFFIX[target]}.nii.gz")
    mask = load_volume(stroke_dir / "T1.nii.gz").data > 0
    result = load_volume(out_dir / stem / "anat" / f"{stem}_space-T1w_res-iso_desc-sr_{target}.nii.gz")
    if result.data.shape != truth.data.shape:
        sys.exit(f"{stem} {target}: result has {result.data.shape} voxels, expected {truth.data.shape}")
    return score_in_mask(truth.data, result.data, mask)


def write_report(options: argparse.Namespace, rows: list[Row]) -> None:
    """The table on the terminal, results.md and results.json in the output folder."""
    rows = sorted(rows, key=lambda row: (row.target, row.factor, row.motion))
    columns = {
        "target": [row.target for row in rows],
        "factor": [f"x{row.factor}" for row in rows],
        "motion": [str(row.motion) for row in rows],
        "cubic PSNR": [f"{row.cubic.psnr_db:.2f}" for row in rows],
        "spline": [f"{row.spline_psnr_db:.2f}" for row in rows],
        "PSNR": [f"{row.atlasgs.psnr_db:.2f}" for row in rows],
        "own frame": [f"{row.own_frame_psnr_db:.2f}" for row in rows],
        "known": ["" if row.below_known_db is None else f"{row.below_known_db:+.2f}" for row in rows],
        "error mm": [f"{row.error_mm:.2f}" for row in rows],
        "profile": ["" if row.profile_sd_mm is None else f"{row.profile_sd_mm:.2f}" for row in rows],
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
        "motions": options.motions,
        "options": options.further,
        "targets_per_process": len(options.targets),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("torch", "numpy", "numba")} | {"atlasgs": __version__},
    }
    table = Table(title=f"{options.device}, defaults; known: dB by which the run that is told both is better")
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "target" else "right")
    for line in cells:
        table.add_row(*line)
    Console(width=160).print(table)
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
