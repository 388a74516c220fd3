"""Where the head was in each slice of a stack: by intensities, where the evidence is for them.

Positions searched by evidence alone are not the app's: on heads they are nearer, on a phantom they restore
less (decision 27).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from atlasgs_bids.core.movement import GAIN_UNIT, N_PARAMETERS, MovementEvidence
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.rigid import RigidFrame
from atlasgs_bids.core.shots import FoundMovement, find_movement, gain_over_rest
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.contrast import fit_contrast
from atlasgs_bids.imaging.grid import resample_mask
from atlasgs_bids.imaging.slice_motion import AT_REST, Shot, SliceMatcher, SlicePosition, shots_of
from atlasgs_bids.imaging.volume import Volume, voxel_sizes_mm
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.guides import Guide, Guides
from atlasgs_bids.restoration.observation import observe_placed
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)

_MIN_EXPLAINED = 0.1
_SIZE_MM = 3.0
"""Of Gaussians and pixels."""
_REGULARIZATION = 0.1
_LEAST_SHOWN_MM2 = 1500.0
"""Of the head in a shot, below which it shares the position of its pass: at the vertex it is led astray."""

Affine = npt.NDArray[np.float64]
Positions = Mapping[int, SlicePosition]


def slice_positions(
    placed: PlacedStack, guides: Guides, config: RestorationSettings, progress: Progress
) -> Positions:
    """Of every slice, relative to where its stack lies."""
    matcher = matcher_of(placed, guides.anchor, config)
    shots = shots_of(placed.acquired.data.shape[placed.source.geometry.axis], placed.source.sidecar)
    matched = matched_positions(matcher, shots, guides.anchor, config, progress)
    if all(position == AT_REST for position in matched.values()):  # the T1w explains too little
        return matched
    return matched if is_likelier(placed, matcher, shots, matched, guides, config) else at_rest(shots)


def at_rest(shots: list[Shot]) -> Positions:
    return {k: AT_REST for shot in shots for k in shot.slices}


def matched_positions(
    matcher: SliceMatcher, shots: list[Shot], anchor: Anchor, config: RestorationSettings, progress: Progress
) -> Positions:
    """By comparing slices with the T1w in their contrast; at rest where that does not explain them."""
    contrast = fit_contrast(
        anchor.volume, anchor.foreground, matcher.acquired, matcher.inside,
        np.asarray(np.linalg.inv(matcher.target_from_anchor), np.float64), config.core.seed,
    )  # fmt: skip
    if contrast.explained < _MIN_EXPLAINED:
        logger.warning(
            "%s of the target's variance, expected at least %.0f %%: its slices are taken to lie still",
            progress.led(f"the T1w explains {100 * contrast.explained:.0f} %"), 100 * _MIN_EXPLAINED,
        )  # fmt: skip
        return at_rest(shots)
    reference = Volume(contrast.apply(anchor.volume.data), anchor.volume.world_from_voxel)
    return matcher.positions(shots, reference)


def is_likelier(
    placed: PlacedStack,
    matcher: SliceMatcher,
    shots: list[Shot],
    matched: Positions,
    guides: Guides,
    config: RestorationSettings,
) -> bool:
    """Whether the evidence is for these positions rather than for a head at rest."""
    seen = _seen(placed, matcher, shots, matched, guides, config)
    if seen is None:
        return False
    gain = gain_over_rest(seen.evidence, seen.shot_of, seen.packet_of, seen.parameters)
    logger.debug("positions of intensities over a head at rest: %.0f (-2 log likelihood)", gain)
    return gain > 0


def positions_by_evidence(
    placed: PlacedStack,
    matcher: SliceMatcher,
    shots: list[Shot],
    matched: Positions,
    guides: Guides,
    config: RestorationSettings,
) -> Positions:
    """The likeliest position of every shot: rest, that of intensities, or one found from the better."""
    seen = _seen(placed, matcher, shots, matched, guides, config)
    if seen is None:
        return at_rest(shots)
    starts = [0 * seen.parameters, seen.parameters, seen.parameters * ([1.0] * 6 + [0.0])]
    may_move = np.array([shown_mm2(matcher, shots[number]) > _LEAST_SHOWN_MM2 for number in seen.numbers])
    found = find_movement(seen.evidence, seen.shot_of, seen.packet_of, starts, may_move)
    return _by_slice(found, shots, seen.numbers, guides.frame, matcher)


@dataclass(frozen=True)
class _Seen:
    """The shots that cross the head, and what there is to say where it was in them."""

    evidence: MovementEvidence
    numbers: list[int]
    shot_of: list[int]
    """Place in ``numbers`` of each observed slice."""
    packet_of: list[int]
    parameters: Affine
    """(shots, 7), of intensities."""


def _seen(
    placed: PlacedStack,
    matcher: SliceMatcher,
    shots: list[Shot],
    matched: Positions,
    guides: Guides,
    config: RestorationSettings,
) -> _Seen | None:
    guide = guides.at(_SIZE_MM, config)
    slices = observed_slices(placed.averaged(_SIZE_MM), guide, config)
    seen = [number for number, shot in enumerate(shots) if any(k in slices for k in shot.slices)]
    if not seen:
        return None
    frame = guides.frame
    shot_of = {k: place for place, number in enumerate(seen) for k in shots[number].slices}
    packets = np.unique([shots[number].packet for number in seen], return_inverse=True)[1]
    positions = [matched[shots[number].slices[0]] for number in seen]
    by_intensity = np.stack(
        [parameters_of(own, frame, matcher.target_from_anchor, matcher.centre_world) for own in positions]
    )
    # What is common to all gains is the intensity of the target.
    by_intensity[:, 6] -= by_intensity[:, 6].mean()
    evidence = MovementEvidence(
        list(slices.values()),
        guide.gaussians,
        guide.prior,
        _REGULARIZATION,
        frame,
        config.core.chunk_elements,
    )
    return _Seen(evidence, seen, [shot_of[k] for k in slices], packets.tolist(), by_intensity)


def shown_mm2(matcher: SliceMatcher, shot: Shot) -> float:
    """The largest area of the head in a slice of a shot."""
    axis = matcher.geometry.axis
    in_plane_mm = np.delete(voxel_sizes_mm(matcher.acquired.world_from_voxel), axis)
    counts = matcher.inside.sum(axis=tuple(a for a in range(3) if a != axis))
    return float(counts[list(shot.slices)].max() * in_plane_mm.prod())


def _by_slice(
    found: FoundMovement,
    shots: list[Shot],
    seen: list[int],
    frame: RigidFrame,
    matcher: SliceMatcher,
) -> Positions:
    positions = {}
    for number, shot in enumerate(shots):
        if number in seen:
            x = found.parameters[seen.index(number)]
        else:  # where most of its packet was
            own = [place for place, other in enumerate(seen) if shots[other].packet == shot.packet]
            x = np.median(found.parameters[own], axis=0) if own else np.zeros(N_PARAMETERS)
        position = AT_REST
        if x.any():
            position = position_of(x, frame, matcher.target_from_anchor, matcher.centre_world)
        for k in shot.slices:
            positions[k] = replace(position, estimated=number in seen)
    return positions


def observed_slices(
    stack: PlacedStack, guide: Guide, config: RestorationSettings
) -> dict[int, LatticeObservation]:
    """Every slice that crosses the head, observed for itself at one scale, in units of all slices' spread."""
    parts = {}
    for k in range(stack.acquired.data.shape[stack.source.geometry.axis]):
        try:
            parts[k] = observe_placed(stack.only(k), guide.anchor, guide.gaussians, config)
        except InputError:  # beyond the head: nothing to explain
            continue
    values = [own.slices[own.weights > 0] for own in parts.values()]
    scale = float(np.concatenate([own.cpu().numpy() for own in values]).std()) if values else 0.0
    if not scale > 0:  # nothing seen, or an image without contrast
        return {}
    return {k: replace(own, slices=own.slices / scale, noise_sd=1.0) for k, own in parts.items()}


def parameters_of(
    position: SlicePosition, frame: RigidFrame, target_from_anchor: Affine, centre_world: Affine
) -> Affine:
    """(7,) of MovementEvidence from a movement of the head in the target's world."""
    moved = position.moved(centre_world)
    lattice_motion = np.linalg.inv(target_from_anchor) @ np.linalg.inv(moved) @ target_from_anchor
    turn = Rotation.from_matrix(lattice_motion[:3, :3]).as_rotvec() * frame.radius_mm
    centre = frame.centre_mm.numpy()
    shift = lattice_motion[:3, :3] @ centre + lattice_motion[:3, 3] - centre
    return np.array([*shift, *turn, np.log(position.gain) / GAIN_UNIT])


def position_of(
    x: Affine, frame: RigidFrame, target_from_anchor: Affine, centre_world: Affine
) -> SlicePosition:
    """The movement of the head in the target's world from (7,) parameters of MovementEvidence."""
    moved = (
        target_from_anchor @ np.linalg.inv(frame.motion(x[:6]).numpy()) @ np.linalg.inv(target_from_anchor)
    )
    return SlicePosition.of(moved, centre_world, float(np.exp(GAIN_UNIT * x[6])))


def matcher_of(placed: PlacedStack, anchor: Anchor, config: RestorationSettings) -> SliceMatcher:
    """Compares the slices of a stack with images in the anchor's world."""
    foreground = Volume(anchor.foreground.astype(np.float32), anchor.volume.world_from_voxel)
    target_from_anchor = placed.registration.target_from_anchor
    indices = np.argwhere(anchor.foreground).mean(axis=0)
    centre_anchor = anchor.volume.world_from_voxel @ [*indices, 1]
    return SliceMatcher(
        acquired=placed.acquired,
        geometry=placed.source.geometry,
        profile=placed.profile(config),
        target_from_anchor=target_from_anchor,
        inside=resample_mask(foreground, placed.acquired.grid, np.linalg.inv(target_from_anchor)),
        centre_world=(target_from_anchor @ centre_anchor)[:3],
    )
