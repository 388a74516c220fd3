"""How close an image comes to the truth inside a mask."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atlasgs_bids.core.metrics import mae, psnr_db, ssim


@dataclass(frozen=True)
class Scores:
    psnr_db: float
    ssim: float
    mae: float
    """In intensity units."""


def score_in_mask(
    truth: npt.NDArray[np.floating], image: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_]
) -> Scores:
    """PSNR (dB), SSIM and MAE over the mask; SSIM windows that reach out of it see 0 in both images."""
    inside_truth, inside_image = np.where(mask, truth, 0), np.where(mask, image, 0)
    return Scores(
        psnr_db(inside_truth, inside_image, mask),
        ssim(inside_truth, inside_image, mask),
        mae(inside_truth, inside_image, mask),
    )
