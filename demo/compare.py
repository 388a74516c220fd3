"""A result and cubic interpolation of the same slices, both scored against the truth."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import load_mask, load_series, load_volume
from atlasgs_bids.imaging.registration.itk_files import read_itk_transform
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.study.results.scores import lesion_ring, score_in_mask

from make_series import VOLUMES, summary


@dataclass(frozen=True)
class Score:
    psnr_db: float
    ssim: float
    lesion_contrast: float
    """Lesion minus its surroundings, as a fraction of the truth's (1: all of it)."""


@dataclass(frozen=True)
class Comparison:
    participant: str
    target: str
    cubic: Score
    atlasgs: Score
    registration_error_mm: float
    """Mean distance over the brain between where the found and the true movement put a point."""


def compare(
    participant: str,
    target: str,
    acquired: Path,
    result: Path,
    transform: Path,
    truth_dir: Path,
    true_target_from_anchor: npt.NDArray[np.float64],
) -> Comparison:
    """Scores of one target in the brain mask; both methods use the registration that AtlasGS found."""
    truth, brain_fraction, lesion_fraction = (
        load_mask(truth_dir / f"{name}.nii.gz") for name in (target, "brain", "lesion")
    )
    acquired_volume, result_volume = _volume(acquired, target), _volume(result, target)
    brain, lesion = brain_fraction.data > 0.5, lesion_fraction.data > 0.5
    target_from_anchor = read_itk_transform(transform)
    cubic = resample(acquired_volume, truth.grid, target_from_anchor, order=3)
    return Comparison(
        participant,
        target,
        score(truth, cubic, brain, lesion),
        score(truth, _on_same_grid(result_volume, truth), brain, lesion),
        mean_distance_mm(target_from_anchor, true_target_from_anchor, brain, truth.world_from_voxel),
    )


def _volume(path: Path, target: str) -> Volume:
    """The image, or what is scored of a series."""
    if target not in VOLUMES:
        return load_volume(path)
    series = load_series(path)
    data = np.stack([series.volume(index) for index in range(len(series))], axis=3)
    return Volume(summary(data, target), series.world_from_voxel)


def score(
    truth: Volume, image: npt.NDArray[np.float32], brain: npt.NDArray[np.bool_], lesion: npt.NDArray[np.bool_]
) -> Score:
    """PSNR (dB) and SSIM in the brain, and the share of the lesion's contrast that the image shows."""
    ring = lesion_ring(lesion, brain, truth.world_from_voxel)
    true_contrast = truth.data[lesion].mean() - truth.data[ring].mean()
    contrast = image[lesion].mean() - image[ring].mean()
    scores = score_in_mask(truth.data, image, brain)
    return Score(scores.psnr_db, scores.ssim, float(contrast / true_contrast))


def mean_distance_mm(
    found: npt.NDArray[np.float64],
    true: npt.NDArray[np.float64],
    brain: npt.NDArray[np.bool_],
    world_from_voxel: npt.NDArray[np.float64],
) -> float:
    """Mean distance between the images of the brain's points under two world transforms."""
    voxels = np.stack([*np.nonzero(brain), np.ones(brain.sum())])
    points_mm = world_from_voxel @ voxels
    return float(np.linalg.norm(((found - true) @ points_mm)[:3], axis=0).mean())


def _on_same_grid(result: Volume, truth: Volume) -> npt.NDArray[np.float32]:
    if result.data.shape != truth.data.shape or not np.allclose(
        result.world_from_voxel, truth.world_from_voxel, atol=1e-3
    ):
        raise ValueError(f"result on a grid {result.data.shape}, expected the truth's {truth.data.shape}")
    return result.data
