"""The demo's diffusion and ASL series: more contrasts of the same moving head, in thick slices."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from anatomy import Affine, Array

B_VALUES = (0, 1000, 1000, 1000)
DIRECTIONS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=float)
"""In the head's axes (RAS)."""
VOLUMES = {
    "dwi": ("b0", "b1000x", "b1000y", "b1000z"),
    "asl": ("control", "label", "control", "label"),
}
"""Which contrast of the anatomy each volume shows."""
SUMMARY = {"dwi": (0, 1 / 3, 1 / 3, 1 / 3), "asl": (0.5, -0.5, 0.5, -0.5)}
"""Weight of each volume in what is scored: the mean at b = 1000 s/mm², and control minus label."""
NOISE_SD = {"dwi": 8.0, "asl": 2.0}
DATATYPE = {"dwi": "dwi", "asl": "perf"}

_ASL_SIDECAR = {
    "ArterialSpinLabelingType": "PCASL",
    "PostLabelingDelay": 1.8,
    "LabelingDuration": 1.8,
    "BackgroundSuppression": False,
    "M0Type": "Absent",
    "TotalAcquiredPairs": 2,
    "RepetitionTimePreparation": 4.0,
    "EchoTime": 0.012,
    "FlipAngle": 90,
    "MagneticFieldStrength": 3,
    "MRAcquisitionType": "3D",
}
_DWI_SIDECAR = {"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.05}


def summary(data: Array, name: str) -> Array:
    """(x, y, z): what is scored of a series (x, y, z, n)."""
    return np.asarray(data @ np.array(SUMMARY[name], dtype=np.float32))


def write_series(
    folder: Path, stem: str, name: str, volumes: list[Array], world_from_voxel: Affine, rotation: Affine
) -> None:
    """Image, sidecar and companions; ``rotation`` (3, 3) is that of the head since the T1w."""
    folder.mkdir(parents=True, exist_ok=True)
    data = np.rint(np.stack(volumes, axis=3)).astype(np.int16)
    image = nib.Nifti1Image(data, world_from_voxel)
    image.set_sform(world_from_voxel, 1)
    image.set_qform(world_from_voxel, 1)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, folder / f"{stem}_{name}.nii.gz")
    thickness = {"SliceThickness": float(np.linalg.norm(world_from_voxel[:3, 2]))}
    sidecar = {**thickness, **(_DWI_SIDECAR if name == "dwi" else _ASL_SIDECAR)}
    (folder / f"{stem}_{name}.json").write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
    if name == "dwi":
        axes = world_from_voxel[:3, :3] / np.linalg.norm(world_from_voxel[:3, :3], axis=0)
        # FSL's convention: along the voxel axes, x flipped where the affine has a positive determinant.
        flip = [-1 if np.linalg.det(axes) > 0 else 1, 1, 1]
        directions = (DIRECTIONS @ rotation.T @ axes) * flip
        np.savetxt(folder / f"{stem}_dwi.bval", [B_VALUES], fmt="%d")
        np.savetxt(folder / f"{stem}_dwi.bvec", directions.T + 0.0, fmt="%.6f")
    else:
        rows = "\n".join(["volume_type", *VOLUMES[name]]) + "\n"
        (folder / f"{stem}_aslcontext.tsv").write_text(rows, encoding="utf-8")
