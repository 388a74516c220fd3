"""Tiny real BIDS datasets for the tests: NIfTI files with JSON sidecars, a few thousand voxels each."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from atlasgs_bids.bids.entities import DATATYPES

FIELD_OF_VIEW_MM = 72.0
CONTRASTS = {
    "T1w": (900.0, 600.0, 150.0),
    "FLAIR": (500.0, 700.0, 60.0),
    "T2w": (300.0, 550.0, 1000.0),
    "PDw": (500.0, 650.0, 800.0),
}
"""Intensity of white matter, grey matter and fluid."""

THICK_MM = (3.0, 3.0, 9.0)
"""Voxel of a target: 3 mm in plane, 9 mm from slice to slice."""


def affine_of(voxel_mm: tuple[float, float, float], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """RAS affine whose field of view is centred on the world's origin."""
    world_from_voxel = np.diag([*voxel_mm, 1.0])
    world_from_voxel[:3, 3] = -0.5 * (np.array(shape[:3]) - 1) * voxel_mm
    return world_from_voxel


def head(
    suffix: str,
    voxel_mm: tuple[float, float, float] = (3.0, 3.0, 3.0),
    seed: int = 0,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """A small head (white core, folded grey rim, two fluid spaces) with noise, and its affine."""
    shape = tuple(max(1, round(FIELD_OF_VIEW_MM / side)) for side in voxel_mm)
    world_from_voxel = affine_of(voxel_mm, shape)
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(voxels @ world_from_voxel[:3, :3].T + world_from_voxel[:3, 3], -1, 0)
    radius = np.sqrt((x / 26) ** 2 + (y / 30) ** 2 + (z / 24) ** 2)
    fold = 0.72 + 0.08 * np.cos(np.arctan2(y, x) * 6) * np.cos(z / 5)
    white, grey, fluid = CONTRASTS[suffix]
    data = np.where(radius < 1, np.where(radius < fold, white, grey), 0.0)
    for side in (-1, 1):
        data[((x - side * 7) / 4) ** 2 + (y / 9) ** 2 + (z / 7) ** 2 < 1] = fluid
    noise = np.random.default_rng(seed).normal(0, 12, shape)
    return np.abs(data + noise).astype(np.float32), world_from_voxel


LABELLING = {
    "ArterialSpinLabelingType": "PCASL",
    "PostLabelingDelay": 1.8,
    "LabelingDuration": 1.8,
    "BackgroundSuppression": False,
    "M0Type": "Separate",
    "TotalAcquiredPairs": 2,
    "RepetitionTimePreparation": 4.0,
    "EchoTime": 0.012,
    "FlipAngle": 90,
    "MRAcquisitionType": "2D",
    "SliceTiming": [0.0],
}


@dataclass(frozen=True)
class Dataset:
    """A BIDS dataset that is being written under ``root``."""

    root: Path
    sidecar_defaults: Mapping[str, Any] = field(default_factory=lambda: {"MagneticFieldStrength": 3})

    @classmethod
    def create(cls, root: Path, **description: Any) -> "Dataset":
        root.mkdir(parents=True)
        write_json(
            root / "dataset_description.json", {"Name": "Tiny", "BIDSVersion": "1.10.0", **description}
        )
        (root / "README.md").write_text("# Tiny\n\nA made-up dataset for tests.\n", encoding="utf-8")
        return cls(root)

    def path(self, participant: str, suffix: str, session: str | None = None, entities: str = "") -> Path:
        """Path of an image; ``entities`` as in the name: ``acq-axial_run-1``."""
        parts = [f"sub-{participant}", *([f"ses-{session}"] if session else []), *filter(None, [entities])]
        session_folder = self.root / f"sub-{participant}" / (f"ses-{session}" if session else "")
        folder = session_folder / DATATYPES.get(suffix, "anat")
        return folder / ("_".join([*parts, suffix]) + ".nii.gz")

    def add(
        self,
        participant: str,
        suffix: str,
        *,
        session: str | None = None,
        entities: str = "",
        voxel_mm: tuple[float, float, float] | None = None,
        data: npt.NDArray[Any] | None = None,
        world_from_voxel: npt.NDArray[np.float64] | None = None,
        sidecar: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write an image of the tiny head (T1w: 3 mm isotropic, else thick slices) and its sidecar."""
        if voxel_mm is None:
            voxel_mm = (3.0, 3.0, 3.0) if suffix == "T1w" else THICK_MM
        if data is None or world_from_voxel is None:
            drawn, affine = head(suffix, voxel_mm)
            data = drawn if data is None else data
        else:
            affine = world_from_voxel
        path = self.path(participant, suffix, session, entities)
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(data, affine)
        image.header.set_xyzt_units("mm", "sec")
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        nib.save(image, path)
        thickness = {} if suffix == "T1w" else {"SliceThickness": max(voxel_mm)}
        write_json(sidecar_of(path), {**self.sidecar_defaults, **thickness, **(sidecar or {})})
        return path

    def add_diffusion(
        self,
        participant: str,
        data: npt.NDArray[Any],
        world_from_voxel: npt.NDArray[np.float64],
        b_values: npt.NDArray[np.float64],
        directions: npt.NDArray[np.float64],
        session: str | None = None,
    ) -> Path:
        """A DWI series with ``bval`` and ``bvec`` (directions (n, 3) in FSL's convention)."""
        path = self.add(
            participant, "dwi", session=session, data=data, world_from_voxel=world_from_voxel,
            voxel_mm=THICK_MM, sidecar={"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.05},
        )  # fmt: skip
        stem = path.name.removesuffix(".nii.gz")
        np.savetxt(path.with_name(f"{stem}.bval"), b_values[None], fmt="%g")
        np.savetxt(path.with_name(f"{stem}.bvec"), directions.T, fmt="%.8g")
        return path

    def add_labelling(
        self,
        participant: str,
        data: npt.NDArray[Any],
        world_from_voxel: npt.NDArray[np.float64],
        context: Sequence[str],
        session: str | None = None,
    ) -> Path:
        """A PCASL series with its context."""
        path = self.add(
            participant, "asl", session=session, data=data, world_from_voxel=world_from_voxel,
            voxel_mm=THICK_MM, sidecar=LABELLING,
        )  # fmt: skip
        context_path = path.with_name(path.name.replace("_asl.nii.gz", "_aslcontext.tsv"))
        context_path.write_text("\n".join(["volume_type", *context]) + "\n", encoding="utf-8")
        return path

    def add_participant(self, participant: str, *suffixes: str, session: str | None = None) -> "Dataset":
        """A participant with a T1w and thick-slice targets (FLAIR unless said otherwise)."""
        for suffix in ("T1w", *(suffixes or ("FLAIR",))):
            self.add(participant, suffix, session=session)
        return self


def sidecar_of(image_path: Path) -> Path:
    return image_path.with_name(image_path.name.removesuffix(".nii.gz") + ".json")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
