"""Simulated heads as a BIDS dataset, for atlasgs-study: the anatomy of no person, as often as is wanted.

    python benchmarks/heads.py BIDS_DIR [--heads 8] [--crop]

Each head is the MNI152 template that nilearn carries (Fonov 2011, 1 mm) under a smooth deformation of its
own: up to 10 % larger or smaller along each axis, then displaced by some 5 mm over 25 mm and some 2 mm over
8 mm. The template is a mean of 152 heads, so borders are drawn anew: a voxel is whichever of fluid, grey and
white matter is likeliest under noise of 3 mm, and its intensity the tissues' under a blur of 0.6 voxels.
Each contrast of each head has intensities of its own, grain of which a half is common to all contrasts, the
template's fine structure at a strength that is drawn, and 1 % noise. Lesions of 4 to 12 mm lie in the white
matter: half of them in FLAIR and T2w alone, which the derivatives have masks of, half in the T1w, too.

What holds on them need not hold on people: tissues are even, and every border is in all contrasts.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from arrange import add_image, add_mask, begin_dataset
from joblib import Parallel, delayed
from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
from scipy import ndimage

from atlasgs_bids.study.simulation.lesions import PHASES, Head, Lesion, Levels, implant, place_lesions, wishes
from atlasgs_bids.study.simulation.phantom import texture

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

AXIS, FACTOR = 2, 5
"""The slices that phases of lesions refer to."""
LEVELS = {
    "T1w": ((200.0, 600.0, 900.0), 500.0),
    "FLAIR": ((120.0, 620.0, 500.0), 950.0),
    "T2w": ((1000.0, 600.0, 430.0), 850.0),
}
"""Of fluid, grey and white matter, and of a lesion; each head's are up to 5 % off."""
KINDS, DIAMETERS_MM = ("target", "opposite"), (4.0, 6.0, 8.0, 12.0)
_LARGER, _BRIGHTER = 0.1, 0.05
_BENT = ((25.0, 5.0), (8.0, 2.0))
"""σ of a displacement field and RMS length of its components, mm."""
_BORDER_NOISE, _BORDER_NOISE_VOX, _BORDER_VOX = 0.25, 1.3, 0.6
"""sd and σ of what is added to the tissues' probabilities; blur of the tissues that are drawn."""
_FINE, _NOISE = 0.5, 0.01
"""Most of the template's fine structure, over that of its own T1w; noise over the brightest tissue."""
_MARGIN_VOX = 6
_CROP_VOX = 64
_COARSE = 4


@dataclass(frozen=True)
class Template:
    """What a head is bent from, on one grid of 1 mm."""

    probabilities: Image
    """(4, x, y, z): of fluid, grey, white matter and brain."""
    fine: Image
    """What the tissues do not explain of the T1w, over white matter's intensity."""
    world_from_voxel: npt.NDArray[np.float64]


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulated heads as a BIDS dataset.")
    parser.add_argument("bids_dir", type=Path, help="new folder")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--crop", action="store_true", help="the middle 64 voxels each way only, for a CPU")
    options = parser.parse_args()
    template = load_template()
    begin_dataset(options.bids_dir, "Simulated heads: no scans of people")
    Parallel(n_jobs=-1)(
        delayed(write_head)(template, number, options.bids_dir, crop=options.crop)
        for number in range(options.heads)
    )
    return 0


def load_template() -> Template:
    """The MNI152 template and its tissue maps."""
    loaders = load_mni152_template, load_mni152_gm_template, load_mni152_wm_template
    images = [load(resolution=1) for load in loaders]
    t1, grey, white = (np.asarray(image.dataobj, np.float32) for image in images)
    affine = images[0].affine
    brain = (t1 > 0).astype(np.float32)
    fluid = np.clip(brain - grey - white, 0, 1)
    maps = np.stack([fluid, grey, white])
    inside = brain > 0
    levels, *_ = np.linalg.lstsq(maps[:, inside].T, t1[inside], rcond=None)
    fine = np.where(inside, t1 - np.tensordot(levels, maps, 1), 0) / levels[2]
    return Template(np.concatenate([maps, brain[None]]), fine.astype(np.float32), affine)


def write_head(template: Template, number: int, bids_dir: Path, *, crop: bool) -> None:
    """Images and masks of one head."""
    rng = np.random.default_rng(number)
    probabilities, fine, affine = bent(template, rng, crop=crop)
    brain = ndimage.binary_fill_holes(ndimage.binary_opening(probabilities[3] > 0.5))
    tissue = drawn_tissues(probabilities[:3], rng)
    fractions = [ndimage.gaussian_filter((tissue == k).astype(np.float32), _BORDER_VOX) for k in range(3)]
    common = texture(rng, tissue.shape)
    images, levels = {}, {}
    for suffix in LEVELS:
        images[suffix], levels[suffix] = contrast(suffix, fractions, common, fine, brain, rng)
    fluid, white = brain & (tissue == 0), brain & (tissue == 2)
    wanted = wishes(KINDS, DIAMETERS_MM, PHASES[::2], rng)
    lesions = place_lesions(white, fluid, wanted, AXIS, FACTOR, rng)
    participant = f"sub-sim{number + 1:02d}"
    for suffix in ("FLAIR", "T2w"):
        head = Head(images["T1w"], images[suffix], levels["T1w"], levels[suffix], fluid)
        implanted = implant(head, lesions)
        add_image(bids_dir, participant, suffix, np.where(brain, implanted.target, 0), affine)
    add_image(bids_dir, participant, "T1w", np.where(brain, implanted.anchor, 0), affine)
    add_mask(bids_dir, participant, "desc-brain", brain, affine)
    add_mask(bids_dir, participant, "label-lesion", lesion_mask(lesions, brain) & brain, affine)
    print(f"{participant}: {int(brain.sum()) / 1000:.0f} ml, {len(lesions)} lesions", flush=True)


def bent(
    template: Template, rng: np.random.Generator, *, crop: bool
) -> tuple[Image, Image, npt.NDArray[np.float64]]:
    """Probabilities and fine structure of a head, around its brain, and their affine."""
    shape = template.fine.shape
    middle = (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2
    scales = rng.uniform(1 - _LARGER, 1 + _LARGER, (3, 1, 1, 1))
    places = (np.indices(shape, dtype=np.float32) - middle) / scales + middle
    for sigma, rms in _BENT:
        for axis in range(3):
            places[axis] += rms * smooth_field(shape, sigma, rng)
    probabilities = np.stack([ndimage.map_coordinates(of, places, order=1) for of in template.probabilities])
    fine = ndimage.map_coordinates(template.fine, places, order=1)
    inside = np.argwhere(probabilities[3] > 0.5)
    low, high = inside.min(axis=0) - _MARGIN_VOX, inside.max(axis=0) + _MARGIN_VOX + 1
    if crop:
        low = (low + high - _CROP_VOX) // 2
        high = low + _CROP_VOX
    low, high = np.maximum(low, 0), np.minimum(high, shape)
    i, j, k = (slice(a, b) for a, b in zip(low, high, strict=True))
    affine = template.world_from_voxel.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    return probabilities[:, i, j, k].astype(np.float32), fine[i, j, k].astype(np.float32), affine


def smooth_field(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Image:
    """A field of RMS 1 that changes over ``sigma`` voxels, drawn on a grid of every fourth voxel."""
    coarse = rng.standard_normal(tuple(n // _COARSE + 2 for n in shape), dtype=np.float32)
    field = ndimage.zoom(ndimage.gaussian_filter(coarse, sigma / _COARSE), _COARSE, order=1)
    i, j, k = shape
    return np.asarray(field[:i, :j, :k] / field[:i, :j, :k].std(), np.float32)


def drawn_tissues(probabilities: Image, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """0 fluid, 1 grey, 2 white matter of each voxel: the likeliest under noise."""
    white_noise = rng.standard_normal(probabilities.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(white_noise, (0, *[_BORDER_NOISE_VOX] * 3))
    return np.asarray((probabilities + _BORDER_NOISE / noise.std() * noise).argmax(axis=0))


def contrast(
    suffix: str,
    fractions: list[Image],
    common: Image,
    fine: Image,
    brain: Mask,
    rng: np.random.Generator,
) -> tuple[Image, Levels]:
    """An image of one kind, and its levels."""
    of_tissues, of_lesion = LEVELS[suffix]
    intensities = np.array(of_tissues) * rng.uniform(1 - _BRIGHTER, 1 + _BRIGHTER, 3)
    clean = sum(value * fraction for value, fraction in zip(intensities, fractions, strict=True))
    strength = _FINE if suffix == "T1w" else _FINE * rng.uniform(-1, 1)
    grain = 1 + (common + texture(rng, fine.shape)) / 2 + strength * fine
    noise = _NOISE * intensities.max() * rng.standard_normal(fine.shape)
    image = np.maximum(clean * grain + noise, 1)
    levels = Levels(
        white=float(np.median(image[brain & (fractions[2] > 0.9)])),
        fluid=float(np.median(image[brain & (fractions[0] > 0.9)])),
        lesion=of_lesion,
    )
    return np.asarray(image, np.float32), levels


def lesion_mask(lesions: tuple[Lesion, ...], like: Mask) -> Mask:
    """Where lesions are that the T1w does not show."""
    mask = np.zeros_like(like)
    for lesion in lesions:
        if lesion.kind == "target":
            mask[lesion.box(like.shape)] |= lesion.ball(like.shape)
    return mask


if __name__ == "__main__":
    sys.exit(main())
