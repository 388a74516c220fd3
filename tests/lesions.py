"""A phantom with lesions of every kind, and images of it that are wrong where the slices say nothing."""

import functools
from collections.abc import Callable

import numpy as np

from atlasgs_bids.study.results.lesion_cells import cells_of, missed_bars
from atlasgs_bids.study.results.lesion_scores import LesionScore, NullSpace, own_null_part, score_lesions
from atlasgs_bids.study.simulation.degrade import Degradation
from atlasgs_bids.study.simulation.lesions import (
    KINDS,
    PHASES,
    Head,
    Implanted,
    Lesion,
    Levels,
    Wish,
    implant,
    place_lesions,
)
from atlasgs_bids.study.simulation.phantom import ANCHOR, LESION, TARGETS, Structure, make_phantom

SHAPE, AXIS, FACTOR = (64, 64, 45), 2, 5
DEGRADATION = Degradation("paper", AXIS, FACTOR)
NULL_SPACE = NullSpace(DEGRADATION, SHAPE[AXIS])
POOL = Structure((32.0, 32.0, 22.0), 6.0)
"""A ventricle, for periventricular lesions."""
DIAMETERS_MM = (12.0, 8.0, 6.0, 4.0)
ENHANCED = 1100.0
WHITE_AROUND_VOX = 4.0
SEED = 6
"""A draw in which all kinds find room."""


@functools.cache
def implanted(contrast: str = "FLAIR") -> Implanted:
    """Lesions at all phases, in white matter or beside the pool, folds between them."""
    lesions = _lesions()
    plain = [Structure(own.centre, own.radius_vox + WHITE_AROUND_VOX) for own in lesions]
    phantom = make_phantom(0, contrast, SHAPE, plain=plain, pools=[POOL])
    fluid, _, white = TARGETS[contrast]
    head = Head(
        anchor=phantom.anchor,
        target=phantom.truth,
        anchor_levels=Levels(white=ANCHOR[2], fluid=ANCHOR[0], lesion=ENHANCED),
        target_levels=Levels(white=white, fluid=fluid, lesion=LESION[contrast]),
        fluid=POOL.shell(SHAPE, 0.0, POOL.radius),
    )
    return implant(head, lesions)


@functools.cache
def _lesions() -> tuple[Lesion, ...]:
    rng = np.random.default_rng(SEED)
    wanted = [
        Wish(kind, size, PHASES[(i + j) % len(PHASES)])
        for i, size in enumerate(DIAMETERS_MM)
        for j, kind in enumerate(KINDS)
        if size in KINDS[kind].diameters_mm
    ]
    white = ~POOL.shell(SHAPE, 0.0, POOL.radius + 1)
    return place_lesions(white, POOL.shell(SHAPE, 0.0, POOL.radius), wanted, AXIS, FACTOR, rng)


def with_null_parts(head: Implanted, image: np.ndarray, share: Callable[[Lesion], float]) -> np.ndarray:
    """The image and, of each lesion, so much of what the slices do not see of it."""
    wrong = image.copy()
    for lesion, own in zip(head.lesions, head.own, strict=True):
        if share(lesion) != 0:
            wrong += share(lesion) * own_null_part(lesion, own, image.shape, NULL_SPACE)
    return wrong


def scored(head: Implanted, image: np.ndarray, without: np.ndarray) -> list[LesionScore]:
    return score_lesions(head, image, without, NULL_SPACE)


def missed(
    head: Implanted, image: np.ndarray, without: np.ndarray, cubic: list[LesionScore]
) -> dict[str, list[str]]:
    """By bar, what is wrong with an image of the head with lesions and one of the head without."""
    found = cells_of({"image": scored(head, image, without)})
    return missed_bars(found, cells_of({"cubic": cubic}))
