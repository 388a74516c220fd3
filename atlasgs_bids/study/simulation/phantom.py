"""Heads that do not exist: folded tissues in two contrasts, with structures that only one of them shows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from atlasgs_bids.imaging.volume import Volume

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Point = tuple[float, float, float]

ANCHOR = (200.0, 600.0, 900.0)
"""Intensity of CSF, grey and white matter in the anchor."""
TARGETS = {"FLAIR": (60.0, 620.0, 470.0), "T2w": (1000.0, 590.0, 430.0)}
LESION = {"FLAIR": 980.0, "T2w": 1000.0}
"""Of what only the target shows."""
_FOLD_VOX = 2.6
"""σ of the field whose level sets are the tissues: sheets of some 4 voxels, turns of some 10."""
_BORDER_VOX = 0.6
_TEXTURE = 0.03
_NOISE = 0.01
"""Of the brightest tissue."""
_EDGE_VOX = 1.0
_MARGIN_VOX = 6.0
"""Of white matter around what the anchor alone shows."""
BEYOND_VOX = 3
"""How far a T1w reaches beyond the slices: as far as the flanks of their profile."""


@dataclass(frozen=True)
class Structure:
    """A ball with a soft border, voxels."""

    centre: Point
    radius: float

    def fraction(self, shape: tuple[int, int, int]) -> Image:
        """Of each voxel, that is inside."""
        outside = np.clip((self.distance(shape) - self.radius) * 2 / _EDGE_VOX, -50, 50)
        return (1 / (1 + np.exp(outside))).astype(np.float32)

    def shell(self, shape: tuple[int, int, int], inner: float, outer: float) -> Mask:
        """Voxels whose distance from the centre is between the two."""
        distance = self.distance(shape)
        return np.asarray((distance >= inner) & (distance < outer))

    def distance(self, shape: tuple[int, int, int]) -> npt.NDArray[np.float64]:
        """Of each voxel from the centre."""
        lines = np.ogrid[tuple(slice(0, n) for n in shape)]
        squares = sum((line - c) ** 2 for line, c in zip(lines, self.centre, strict=True))
        return np.sqrt(np.asarray(squares, dtype=np.float64))


@dataclass(frozen=True)
class Phantom:
    """Two contrasts of one head."""

    anchor: Image
    truth: Image
    """Of the target."""
    plain_anchor: Image
    """The anchor without its decoy."""
    decoy: Structure | None
    """In the anchor alone."""
    decoy_contrast: float
    """What the decoy would be in the target, if it were there."""


def make_phantom(
    seed: int,
    contrast: str,
    shape: tuple[int, int, int],
    *,
    shared_texture: float = 0.5,
    decoy: Structure | None = None,
    plain: Sequence[Structure] = (),
    pools: Sequence[Structure] = (),
) -> Phantom:
    """Texture is ``shared_texture`` the same in both; the rest of it, and the noise, each has for itself.

    The decoy looks like CSF in the anchor, and lies in white matter, where nothing else is to be seen: what
    the target shows there is the decoy's doing. ``plain`` balls are white matter, ``pools`` CSF. Lesions are
    implanted (lesions.py).
    """
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal(shape), _FOLD_VOX, mode="wrap")
    levels = np.quantile(field, (0.2, 0.5))
    tissue = np.digitize(field, levels)
    white = [*plain] if decoy is None else [*plain, Structure(decoy.centre, decoy.radius + _MARGIN_VOX)]
    for ball in white:
        tissue[ball.shell(shape, 0.0, ball.radius)] = len(ANCHOR) - 1
    for ball in pools:
        tissue[ball.shell(shape, 0.0, ball.radius)] = 0
    fractions = [ndimage.gaussian_filter((tissue == k).astype(np.float32), _BORDER_VOX) for k in range(3)]
    common = texture(rng, shape)

    def image(intensities: tuple[float, float, float]) -> Image:
        own = texture(rng, shape)
        grain = 1 + shared_texture * common + (1 - shared_texture) * own
        clean = sum(value * fraction for value, fraction in zip(intensities, fractions, strict=True))
        noise = _NOISE * max(intensities) * rng.standard_normal(shape)
        return np.asarray(clean * grain + noise, dtype=np.float32)

    plain_anchor, truth = image(ANCHOR), image(TARGETS[contrast])
    anchor, contrast_of_decoy = plain_anchor, 0.0
    if decoy is not None:
        anchor = plain_anchor + decoy.fraction(shape) * (np.float32(ANCHOR[0]) - plain_anchor)
        inside = decoy.fraction(shape) > 0.5
        contrast_of_decoy = float(TARGETS[contrast][0] - truth[inside].mean())
    return Phantom(anchor, truth, plain_anchor, decoy, contrast_of_decoy)


def seen_beyond(image: Image) -> Volume:
    """The image with ``BEYOND_VOX`` voxels more below and above its own, which keep their place in the world.

    Its folds go on, since they are periodic. Where a T1w ends in tissue, nobody knows what the outermost
    slices saw beyond it, and they are left out.
    """
    world_from_voxel = np.eye(4)
    world_from_voxel[2, 3] = -BEYOND_VOX
    return Volume(np.pad(image, ((0, 0), (0, 0), (BEYOND_VOX, BEYOND_VOX)), mode="wrap"), world_from_voxel)


def own_part(image: Image) -> Image:
    """What ``seen_beyond`` was given, of an image on its grid."""
    return image[:, :, BEYOND_VOX:-BEYOND_VOX]


def leaked_contrast(phantom: Phantom, image: Image) -> float:
    """Contrast of the error where the anchor alone shows something, over what it would have there."""
    assert phantom.decoy is not None
    inside = phantom.decoy.shell(image.shape, 0.0, phantom.decoy.radius)
    error = image - phantom.truth
    return (
        float(error[inside].mean() - error[_surroundings(phantom.decoy, image)].mean())
        / phantom.decoy_contrast
    )


def _surroundings(structure: Structure, image: Image) -> Mask:
    return structure.shell(image.shape, structure.radius + 2.0, structure.radius + 5.0)


def texture(rng: np.random.Generator, shape: tuple[int, int, int]) -> Image:
    """Fine grain and slow change around 0, 3 % of the signal each."""
    total = np.zeros(shape, np.float32)
    for sigma in (1.2, 8.0):
        grain = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap")
        total += _TEXTURE * grain / grain.std()
    return total
