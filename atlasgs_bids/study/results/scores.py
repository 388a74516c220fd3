"""How close an image comes to the truth: in a mask, in regions of it, and slice by slice."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from atlasgs_bids.core.metrics import decibels, edge_agreement, mae, psnr_db, ssim
from atlasgs_bids.imaging.volume import voxel_sizes_mm
from atlasgs_bids.study.results.detail import sharpness, unlike_patches
from atlasgs_bids.study.results.tissues import tissue_scores

RING_GAP_MM, RING_REACH_MM = 3.0, 8.0
Image = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    psnr_db: float
    ssim: float
    mae: float
    """In intensity units."""


@dataclass(frozen=True)
class Reference:
    """What images are scored against; all arrays on one grid."""

    truth: Image
    anchor: Image
    mask: Mask
    """What counts: the foreground inside the slices."""
    rois: Mapping[str, Mask]
    """Regions by name; voxels outside the mask do not count."""
    world_from_voxel: npt.NDArray[np.float64]
    axis: int
    factor: int
    """The slices: units of the intervals where there is one subject."""

    @property
    def range(self) -> float:
        """max − min of the truth in the mask."""
        return float(np.ptp(self.truth[self.mask]))


@dataclass(frozen=True)
class RegionScores:
    """One row of the table, and the sums that its intervals are drawn from."""

    values: Mapping[str, float]
    """By metric; what makes no sense for a region is absent."""
    units: Mapping[str, npt.NDArray[np.float64]]
    """For each slice: number of voxels, sums of squared error, absolute error and SSIM over them."""


def score_in_mask(truth: Image, image: Image, mask: Mask) -> Scores:
    """PSNR (dB), SSIM and MAE over the mask; SSIM windows that reach out of it see 0 in both images."""
    inside_truth, inside_image = np.where(mask, truth, 0), np.where(mask, image, 0)
    return Scores(
        psnr_db(inside_truth, inside_image, mask),
        ssim(inside_truth, inside_image, mask),
        mae(inside_truth, inside_image, mask),
    )


def score_regions(image: Image, reference: Reference) -> dict[str, RegionScores]:
    """Scores in the mask and in each region, by name.

    The range of PSNR and SSIM is that of the truth in the mask for every region, so that regions compare.
    """
    mask, truth = reference.mask, np.where(reference.mask, reference.truth, 0).astype(np.float64)
    inside = np.where(mask, image, 0).astype(np.float64)
    anchor = np.where(mask, reference.anchor, 0)
    similarity, volume_ssim = _ssim_map(truth, inside, reference.range)
    found = {}
    for name, region in {"mask": mask, **{k: roi & mask for k, roi in reference.rois.items()}}.items():
        if not region.any():
            continue
        units = _unit_sums(truth, inside, similarity, region, reference)
        values = dict(pooled(units, reference.range))
        values["edge_ncc"] = edge_agreement(inside, anchor, region)
        values["edge_ncc_truth"] = edge_agreement(truth, anchor, region)
        if name == "mask":
            values["ssim_volume"] = volume_ssim
        else:
            values["lesion_contrast"] = lesion_contrast(truth, inside, region, reference)
        found[name] = RegionScores(values, units)
    return found


def image_scores(image: Image, reference: Reference) -> dict[str, float]:
    """Scores of the mask as a whole: ``sharpness``, ``invented`` and ``erased`` (%), tissues (tissues.py)."""
    truth, mask = reference.truth, reference.mask
    patches = unlike_patches(truth, image, mask)
    part = 100 / patches.n if patches.n else math.nan
    return {
        "sharpness": sharpness(truth, image, mask, reference.axis),
        "n_patches": float(patches.n),
        "invented": part * patches.n_invented,
        "erased": part * patches.n_erased,
        **tissue_scores(truth, image, mask),
    }


def pooled(units: Mapping[str, npt.NDArray[np.float64]], data_range: float) -> dict[str, float]:
    """MAE, PSNR (dB) and masked SSIM of slices together."""
    n_voxels = float(units["n_voxels"].sum())
    error = float(units["squared"].sum()) / n_voxels
    return {
        "mae": float(units["absolute"].sum()) / n_voxels,
        "psnr": decibels(error, data_range),
        "ssim_mask": float(units["ssim"].sum()) / n_voxels,
    }


def lesion_contrast(truth: Image, image: Image, lesion: Mask, reference: Reference) -> float:
    """Lesion minus its surroundings, over the same in the truth (1: all of it)."""
    ring = lesion_ring(lesion, reference.mask, reference.world_from_voxel)
    if not ring.any():
        return math.nan
    true_contrast = float(truth[lesion].mean() - truth[ring].mean())
    return float(image[lesion].mean() - image[ring].mean()) / true_contrast if true_contrast else math.nan


def lesion_ring(lesion: Mask, mask: Mask, world_from_voxel: npt.NDArray[np.float64]) -> Mask:
    """What the mask holds around a lesion, from 3 to 8 mm off its border."""
    distance_mm = ndimage.distance_transform_edt(~lesion, sampling=voxel_sizes_mm(world_from_voxel))
    return np.asarray(mask & (distance_mm > RING_GAP_MM) & (distance_mm <= RING_REACH_MM))


def consistency_rms(simulated: Image, acquired: Image, mask: Mask) -> float:
    """RMS of acquired minus simulated slices, over the slices' voxels that lie in the mask."""
    difference = (simulated.astype(np.float64) - acquired)[mask]
    return float(np.sqrt(np.mean(difference**2))) if difference.size else math.nan


def _ssim_map(truth: Image, image: Image, data_range: float) -> tuple[npt.NDArray[np.float64], float]:
    """scikit-image's map with its defaults, and its mean over the volume (without the border, as there)."""
    from skimage.metrics import structural_similarity  # noqa: PLC0415 - half a second

    mean, similarity = structural_similarity(truth, image, data_range=data_range, full=True)
    return np.asarray(similarity, np.float64), float(mean)


def _unit_sums(
    truth: Image, image: Image, similarity: Image, region: Mask, reference: Reference
) -> dict[str, npt.NDArray[np.float64]]:
    axis, factor = reference.axis, reference.factor
    n_slices = truth.shape[axis] // factor

    def per_slice(values: Image | Mask) -> npt.NDArray[np.float64]:
        planes = np.moveaxis(np.where(region, values, 0).astype(np.float64), axis, 0)
        sums = planes.reshape(len(planes), -1).sum(axis=1)
        # What trails behind the last slice belongs to it, as far as the mask goes there.
        starts = np.arange(n_slices) * factor
        return np.asarray(np.add.reduceat(sums, starts))

    sums = {
        "n_voxels": per_slice(region),
        "squared": per_slice((image - truth) ** 2),
        "absolute": per_slice(np.abs(image - truth)),
        "ssim": per_slice(similarity),
    }
    seen = sums["n_voxels"] > 0
    return {name: values[seen] for name, values in sums.items()}
