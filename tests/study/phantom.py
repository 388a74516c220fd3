"""A dataset whose targets are isotropic: 32³ voxels or fewer, with a lesion that the T1w does not show."""

import sys

import nibabel as nib
import numpy as np

from tests.bids_datasets import Dataset, head
from tests.runs import finished

LESION = ((17, 23), (20, 26), (12, 21))
"""First and last voxel of 32, along each axis."""
QUICK = ("--device", "cpu", "--n-gaussians", "4000", "--scaffold-steps", "3", "--targets", "FLAIR")
TIMEOUT_S = 300


def isotropic_dataset(root, participants=("01",), suffixes=("FLAIR",), n_voxels=32):
    """Dataset with T1w and targets on one grid, and a lesion mask among its derivatives."""
    dataset = Dataset.create(root)
    voxel_mm = (72 / n_voxels,) * 3
    lesion = tuple(slice(a * n_voxels // 32, b * n_voxels // 32) for a, b in LESION)
    for number, participant in enumerate(participants):
        for suffix in ("T1w", *suffixes):
            data, world_from_voxel = head(suffix, voxel_mm, seed=10 * number + len(suffix))
            if suffix != "T1w":
                data[lesion] += 300
            dataset.add(participant, suffix, voxel_mm=voxel_mm, data=data, world_from_voxel=world_from_voxel)
        mask = np.zeros(data.shape, np.uint8)
        mask[lesion] = 1
        path = root / f"derivatives/lesions/sub-{participant}/anat/sub-{participant}_label-lesion_mask.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(mask, world_from_voxel), path)
    return dataset


def command(bids_dir, out_dir, *options):
    return [sys.executable, "-m", "atlasgs_bids.study.cli", str(bids_dir), str(out_dir), *QUICK, *options]


def atlasgs_study(bids_dir, out_dir, *options):
    """A finished run: exit code, last line of stdout, log."""
    ended = finished("atlasgs_bids.study.cli", *command(bids_dir, out_dir, *options)[3:])
    return ended.returncode, (ended.stdout.splitlines() or [""])[-1], ended.stderr
