"""Structures that one image of a training pair shows and the other does not.

A lesion may be in the target alone, in the anchor alone, or look otherwise in each. A subject's own slices
hold few of them, so some are drawn: soft ellipsoids, blurred with the rest. A network that was trained with
them believes an edge of the anchor where the blurred target agrees, and keeps what the anchor does not know.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atlasgs_bids.core.settings import LearnedSettings

N_PARAMETERS = 12
"""Centre and radii along w, v, u; softness; how much is replaced, and by what, in target and anchor; kept."""
_LEAST_RADIUS = 1.0
_SOFTNESS = (0.3, 1.5)
"""Width of the border, voxels."""
_CONTRAST = (0.1, 1.0)
"""In ranges (5th to 95th percentile) of the image."""


def draw_structures(
    n: int,
    extent: tuple[int, int, int],
    largest_radius: float,
    settings: LearnedSettings,
    generator: torch.Generator,
) -> Float[Tensor, "n p"]:
    """Parameters for ``n`` windows of ``extent`` (w, v, u); most of them show nothing."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    centres = uniform(0.0, 1.0, 3) * (torch.tensor(extent) - 1)
    radii = torch.exp(uniform(math.log(_LEAST_RADIUS), math.log(max(largest_radius, 1.5)), 3))
    low, high = _CONTRAST
    values = uniform(low, high, 2) * torch.where(uniform(0.0, 1.0, 2) < 0.5, -1.0, 1.0)
    # A third each: in the target alone, in the anchor alone, in both but with contrasts of their own.
    where = torch.randint(3, (n,), generator=generator)
    values[:, 0] *= where != 1
    values[:, 1] *= where != 0
    present = uniform(0.0, 1.0) < settings.structure_fraction
    replaces = (uniform(0.0, 1.0) < 0.5) & present
    kept = (uniform(0.0, 1.0) >= settings.anchor_dropout).float()
    replaced = torch.stack([replaces & (where != 1), replaces & (where != 0)], dim=1).float()
    values = values * present[:, None]
    softness = uniform(*_SOFTNESS)
    return torch.cat([centres, radii, softness[:, None], replaced, values, kept[:, None]], dim=1)


def insert_structures(
    target: Float[Tensor, "b t v u"],
    anchor: Float[Tensor, "b w v u"],
    parameters: Float[Tensor, "b p"],
) -> tuple[Float[Tensor, "b t v u"], Float[Tensor, "b w v u"]]:
    """Both images with the structures of ``parameters``; the anchor is 0 where it is not kept."""
    centres, radii = parameters[:, :3], parameters[:, 3:6].clamp_min(_LEAST_RADIUS)
    softness = parameters[:, 6].clamp_min(_SOFTNESS[0])
    total = torch.zeros(1, 1, 1, 1, device=anchor.device)
    for axis in range(3):
        shape = [1, 1, 1, 1]
        shape[axis + 1] = anchor.shape[axis + 1]
        line = torch.arange(anchor.shape[axis + 1], device=anchor.device).view(shape)
        total = total + ((line - _each(centres[:, axis])) / _each(radii[:, axis])) ** 2
    distance = (total.sqrt() - 1) * _each(radii.amin(1) / softness)
    inside = torch.sigmoid(-2 * distance)
    replaced, values = parameters[:, 7:9], parameters[:, 9:11]
    images = []
    for which, image in enumerate((target, anchor)):
        # The value of a replaced voxel is that of the image at the structure's centre, plus the contrast.
        level = _at_centre(image, centres)
        images.append(
            image + inside * (_each(replaced[:, which]) * (level - image) + _each(values[:, which]))
        )
    return images[0], images[1] * _each(parameters[:, 11])


def _each(values: Float[Tensor, " b"]) -> Float[Tensor, "b 1 1 1"]:
    return values[:, None, None, None]


def _at_centre(image: Float[Tensor, "b w v u"], centres: Float[Tensor, "b 3"]) -> Float[Tensor, "b 1 1 1"]:
    index: list[Int[Tensor, " b"]] = [centres[:, axis].round().long() for axis in range(3)]
    every = torch.arange(len(image), device=image.device)
    return _each(image[every, index[0], index[1], index[2]])
