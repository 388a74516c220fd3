"""Three tissues of an image by its own histogram, and how well they are those of the truth."""

import numpy as np
import numpy.typing as npt

CLASSES = ("dark", "middle", "bright")
"""By intensity: what they are depends on the contrast. On a T2w white matter, grey matter and fluid."""
Image = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


def tissue_scores(truth: Image, image: Image, mask: Mask) -> dict[str, float]:
    """Dice and relative volume error of each class: ``dice_dark``, ``bias_dark`` and so on.

    Both images are segmented by themselves, as whoever has no truth would: Otsu's thresholds for three
    classes (Otsu 1979, Liao 2001; scikit-image's ``threshold_multiotsu``) in the mask.
    """
    known, found = (_classes(of[mask]) for of in (truth, image))
    scores = {}
    for label, name in enumerate(CLASSES):
        one, other = known == label, found == label
        total = int(one.sum() + other.sum())
        scores[f"dice_{name}"] = 2 * float((one & other).sum()) / total if total else np.nan
        scores[f"bias_{name}"] = float(other.sum() / one.sum()) - 1 if one.any() else np.nan
    return scores


def _classes(values: Image) -> npt.NDArray[np.intp]:
    """0, 1 or 2 of each value; all 0 where there are fewer values than classes."""
    from skimage.filters import threshold_multiotsu  # noqa: PLC0415 - half a second

    if len(np.unique(values)) < len(CLASSES):
        return np.zeros(values.shape, np.intp)
    return np.digitize(values, threshold_multiotsu(values, classes=len(CLASSES)))
