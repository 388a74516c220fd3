"""ECLARE (Remedios 2024), where its command is installed: called as a program of its own, never imported.

It is GPLv3 and no dependency of this package: `pip install eclare`, best in an environment of its own, brings
the command. It sees the target alone, and is told the slice profile as every method is; without that it would
estimate one (ESPRESO).
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from atlasgs_bids.core.acquisition import profile_sampling
from atlasgs_bids.errors import InputError, shortened
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import load_volume, to_nifti
from atlasgs_bids.imaging.profile import slice_profile
from atlasgs_bids.imaging.volume import voxel_sizes_mm
from atlasgs_bids.study.methods.protocol import Restored, kept
from atlasgs_bids.study.settings import StudyConfig
from atlasgs_bids.study.simulation.case import Case

COMMAND = "run-eclare"


def missing(study: StudyConfig, device: str) -> str | None:  # noqa: ARG001 - the protocol's
    if shutil.which(COMMAND) is None:
        return f"the command {COMMAND} is not installed (pip install eclare, GPLv3)"
    return None if device != "cpu" else f"{COMMAND} trains on a GPU, and the study runs on the CPU"


def restore(case: Case) -> Restored:
    placed = case.placed
    with tempfile.TemporaryDirectory(prefix="atlasgs-eclare-") as folder:
        source, kernel = Path(folder) / "slices.nii.gz", Path(folder) / "profile.npy"
        nib.save(to_nifti(placed.acquired.data, placed.acquired.world_from_voxel), source)
        np.save(kernel, blur_kernel(case))
        gpu = case.run.device.partition(":")[2] or "0"
        # The thickness is asked for, and not looked at where there is a profile.
        profile: list[str | Path] = [
            "--relative-slice-thickness",
            "1",
            "--relative-slice-profile-fpath",
            kernel,
        ]
        finished = subprocess.run(
            [COMMAND, "--in-fpath", source, "--out-dir", folder, "--gpu-id", gpu, *profile],
            capture_output=True,
            text=True,
            check=False,
        )
        made = sorted(Path(folder).glob("**/*_eclare.nii.gz"))
        if finished.returncode != 0 or not made:
            (last,) = (finished.stderr or finished.stdout).strip().splitlines()[-1:] or ["no result"]
            raise InputError(f"{COMMAND} ended with {finished.returncode}: {shortened(last, 150)}")
        result = load_volume(made[0])
    image = resample(result, case.grid, placed.registration.target_from_anchor, order=3)
    return Restored(kept(image.astype(np.float32), case))


def blur_kernel(case: Case) -> npt.NDArray[np.float64]:
    """The slice profile's share in each in-plane voxel, an odd number of them around the slice's centre."""
    placed = case.placed
    known = slice_profile(case.run.slice_profile, placed.source.geometry.thickness_mm)
    voxel_mm = float(np.delete(voxel_sizes_mm(placed.acquired.world_from_voxel), case.slice_axis).min())
    return profile_sampling(1, voxel_mm, known.offsets_mm, known.cumulative, voxel_mm).weights[0]
