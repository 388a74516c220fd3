"""The demo's dataset: two subjects with a sharp T1w and thick oblique FLAIR and T2w, one with DWI and ASL.

    python demo/make_dataset.py BIDS_DIR TRUTH_DIR

Real anatomy (the MNI152 template and tissue maps that nilearn carries), so nothing is downloaded. What was
true before slices, noise and head movement goes to TRUTH_DIR, outside of the dataset.
"""

import argparse
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from atlasgs_bids.study.simulation.degrade import simulate_thick_slices

from anatomy import Affine, Anatomy, Array, Lesion, make_anatomy
from make_series import DATATYPE, VOLUMES, summary, write_series
from make_series import NOISE_SD as SERIES_NOISE_SD

TARGETS = ("FLAIR", "T2w")
SLICE_FACTOR = 5
NOISE_SD = {"T1w": 15.0, "FLAIR": 12.0, "T2w": 12.0}
"""Rician, of each channel; the brightest tissue is near 1000."""
FLANK_SIGMA_VOXELS = 0.5
"""Flanks of the slice profile: no scanner cuts a perfect box."""
HEAD_CENTRE_MM = np.array([0.0, -18.0, 8.0])
HEAD_SIZE_MM = np.array([156.0, 192.0, 164.0])

ORIENTATIONS = {
    "axial": [[-1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "coronal": [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
    "sagittal": [[0, 0, 1], [1, 0, 0], [0, 1, 0]],
}
"""World directions (columns: row, column, slice) as scanners store them, left-handed ones among them."""


@dataclass(frozen=True)
class Scan:
    """How one target was acquired, and how the head had moved since the T1w."""

    orientation: str
    tilt_deg: float
    """Obliquity about the slice's row direction."""
    head_rotation_deg: tuple[float, float, float]
    head_translation_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Subject:
    label: str
    seed: int
    lesion: Lesion
    scans: dict[str, Scan]
    series: dict[str, Scan] = field(default_factory=dict)
    """DWI and ASL."""


SUBJECTS = (
    Subject(
        label="01",
        seed=1,
        lesion=Lesion((-25.0, 14.0, 22.0), (6.0, 10.0, 7.0)),
        scans={
            "FLAIR": Scan("axial", 8.0, (2.0, -1.5, 1.0), (1.5, -2.0, 2.5)),
            "T2w": Scan("sagittal", 5.0, (-1.0, 2.0, 1.5), (-2.0, 1.0, 1.5)),
        },
        series={
            "dwi": Scan("axial", 4.0, (-2.0, 1.0, 2.0), (1.0, -1.5, 1.5)),
            "asl": Scan("axial", -5.0, (1.5, 1.0, -1.5), (-1.5, 1.0, -1.0)),
        },
    ),
    Subject(
        label="02",
        seed=2,
        lesion=Lesion((27.0, -34.0, 27.0), (7.0, 8.0, 6.0)),
        scans={
            "FLAIR": Scan("coronal", -6.0, (1.0, 1.5, -2.0), (2.5, 1.5, -1.0)),
            "T2w": Scan("axial", 12.0, (-2.5, 0.5, 1.0), (-1.0, -2.5, -1.5)),
        },
    ),
)


def make_dataset(
    bids_dir: Path,
    truth_dir: Path,
    voxel_mm: int = 2,
    factor: int = SLICE_FACTOR,
    subjects: tuple[Subject, ...] = SUBJECTS,
) -> None:
    """Write the BIDS dataset, and the truth on each T1w's grid: targets, brain, lesion, movement."""
    _write_dataset_files(bids_dir, subjects)
    for subject in subjects:
        anatomy = make_anatomy(subject.lesion, detail_mm=voxel_mm, seed=subject.seed)
        noise = np.random.default_rng([subject.seed, 1])
        stem = f"sub-{subject.label}"
        anat_dir = bids_dir / stem / "anat"
        truth_anat_dir = truth_dir / stem
        anat_dir.mkdir(parents=True, exist_ok=True)
        truth_anat_dir.mkdir(parents=True, exist_ok=True)

        shape, world_from_anchor = anchor_grid(voxel_mm)
        t1w = anatomy.sample("T1w", shape, world_from_anchor, np.eye(4))
        _save(anat_dir / f"{stem}_T1w.nii.gz", _add_noise(t1w, NOISE_SD["T1w"], noise), world_from_anchor)
        _save_json(anat_dir / f"{stem}_T1w.json", {"SliceThickness": voxel_mm})
        for name in (*TARGETS, "brain", "lesion"):
            truth = anatomy.sample(name, shape, world_from_anchor, np.eye(4))
            _save(truth_anat_dir / f"{name}.nii.gz", truth, world_from_anchor, np.float32)
        for name, scan in subject.scans.items():
            slices, world_from_slices = acquire(anatomy, name, scan, voxel_mm, factor)
            _save(
                anat_dir / f"{stem}_{name}.nii.gz",
                _add_noise(slices, NOISE_SD[name], noise),
                world_from_slices,
            )
            _save_json(anat_dir / f"{stem}_{name}.json", {"SliceThickness": factor * voxel_mm})
        for name, scan in subject.series.items():
            _write_series(bids_dir, truth_anat_dir, stem, name, scan, anatomy, (voxel_mm, factor))
        scans = {**subject.scans, **subject.series}
        motions = {name: target_from_anchor(scan).tolist() for name, scan in scans.items()}
        _save_json(truth_anat_dir / "target_from_anchor.json", motions)


def _write_series(
    bids_dir: Path,
    truth_dir: Path,
    stem: str,
    name: str,
    scan: Scan,
    anatomy: Anatomy,
    voxel_mm_and_factor: tuple[int, int],
) -> None:
    """One DWI or ASL series, and the truth of what is scored of it."""
    voxel_mm, factor = voxel_mm_and_factor
    noise = np.random.default_rng([len(stem), len(name), factor])
    acquired = [acquire(anatomy, contrast, scan, voxel_mm, factor) for contrast in VOLUMES[name]]
    volumes = [_add_noise(slices, SERIES_NOISE_SD[name], noise) for slices, _ in acquired]
    rotation = target_from_anchor(scan)[:3, :3]
    write_series(bids_dir / stem / DATATYPE[name], stem, name, volumes, acquired[0][1], rotation)
    shape, world_from_anchor = anchor_grid(voxel_mm)
    truth = [anatomy.sample(contrast, shape, world_from_anchor, np.eye(4)) for contrast in VOLUMES[name]]
    _save(truth_dir / f"{name}.nii.gz", summary(np.stack(truth, axis=3), name), world_from_anchor, np.float32)


def anchor_grid(voxel_mm: float) -> tuple[tuple[int, ...], Affine]:
    """Shape and world_from_voxel (mm) of the T1w."""
    shape = np.ceil(HEAD_SIZE_MM / voxel_mm).astype(int)
    world_from_voxel = np.diag([voxel_mm, voxel_mm, voxel_mm, 1])
    world_from_voxel[:3, 3] = HEAD_CENTRE_MM - voxel_mm * (shape - 1) / 2
    return tuple(int(n) for n in shape), world_from_voxel


def target_from_anchor(scan: Scan) -> Affine:
    """Where a point of the head at T1w time is at target time: rigid, about the head's centre, world mm."""
    rotation = Rotation.from_euler("xyz", scan.head_rotation_deg, degrees=True).as_matrix()
    motion = np.eye(4)
    motion[:3, :3] = rotation
    motion[:3, 3] = HEAD_CENTRE_MM - rotation @ HEAD_CENTRE_MM + scan.head_translation_mm
    return motion


def acquire(anatomy: Anatomy, name: str, scan: Scan, voxel_mm: float, factor: int) -> tuple[Array, Affine]:
    """Noise-free thick slices of the moved head; the header knows nothing of the movement."""
    directions = np.array(ORIENTATIONS[scan.orientation], dtype=np.float64)
    tilt = Rotation.from_rotvec(np.deg2rad(scan.tilt_deg) * directions[:, 0])
    directions = tilt.as_matrix() @ directions
    # The tilted box has to hold the head, which may have moved by a few millimetres.
    extent_mm = np.abs(np.round(directions)).T @ HEAD_SIZE_MM + 16.0
    shape = np.ceil(extent_mm / voxel_mm).astype(int)
    shape[2] = factor * np.ceil(shape[2] / factor)
    world_from_fine = np.eye(4)
    world_from_fine[:3, :3] = directions * voxel_mm
    world_from_fine[:3, 3] = HEAD_CENTRE_MM - world_from_fine[:3, :3] @ (shape - 1) / 2
    anchor_from_target = np.linalg.inv(target_from_anchor(scan))
    fine = anatomy.sample(name, tuple(int(n) for n in shape), world_from_fine, anchor_from_target)
    return simulate_thick_slices(fine, world_from_fine, 2, factor, FLANK_SIGMA_VOXELS)


def _add_noise(image: Array, sd: float, rng: np.random.Generator) -> Array:
    real, imaginary = sd * rng.standard_normal((2, *image.shape), dtype=np.float32)
    return np.hypot(image + real, imaginary)


def _save(path: Path, data: Array, world_from_voxel: Affine, dtype: npt.DTypeLike = np.int16) -> None:
    stored = np.rint(data) if np.issubdtype(dtype, np.integer) else data
    image = nib.Nifti1Image(stored.astype(dtype), world_from_voxel)
    image.set_sform(world_from_voxel, 1)
    image.set_qform(world_from_voxel, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _save_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_dataset_files(bids_dir: Path, subjects: tuple[Subject, ...]) -> None:
    bids_dir.mkdir(parents=True, exist_ok=True)
    _save_json(
        bids_dir / "dataset_description.json",
        {
            "Name": "AtlasGS demo (simulated)",
            "BIDSVersion": "1.10.0",
            "DatasetType": "raw",
            "Authors": ["AtlasGS"],
        },
    )
    readme = (
        "# AtlasGS demo\n\nSimulated from the MNI152 template and its tissue maps; no person was scanned.\n"
    )
    (bids_dir / "README.md").write_text(readme, encoding="utf-8")
    rows = ["participant_id", *(f"sub-{subject.label}" for subject in subjects)]
    (bids_dir / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo's BIDS dataset and its truth.")
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("truth_dir", type=Path)
    parser.add_argument(
        "--mm", type=int, default=int(os.environ.get("DEMO_MM", "2")), help="T1w voxel side, whole mm"
    )
    arguments = parser.parse_args()
    make_dataset(arguments.bids_dir, arguments.truth_dir, arguments.mm)


if __name__ == "__main__":
    main()
