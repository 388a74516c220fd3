"""Where the head was in each volume of a series, and which slices lost their signal.

A volume's position is where the model's evidence is greatest (core/position.py): first against the anchor
alone, then with a graph that counts from what the other volumes of its kind say, each from where it lay
(docs/decisions/0036-volumes-that-move.md). What the evidence does not tell from rest stays at rest.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.position import FoundPositions, PositionEvidence, find_positions
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.registration.register import moved_registration
from atlasgs_bids.imaging.series import Series, SeriesKinds
from atlasgs_bids.imaging.slice_motion import AT_REST, SlicePosition
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.imaging.volume_motion import SeriesMotion, leave_one_out, lost_slices
from atlasgs_bids.restoration.guides import Guide, Guides
from atlasgs_bids.restoration.observation import displaced, observe_placed, shares_of_signal
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)

_FIRST_MM, _LAST_MM = 4.0, 3.0
"""Of Gaussians and pixels."""
_ALONE, _EXPECTED = 0.1, 1.0
"""λ with the anchor alone, and about what the other volumes say."""
_RIDGE = 3.0
_ROUNDS = 2
_LATTICE_ERROR_MM = 0.05
"""By which the lattice of the Gaussians holds a volume: beside the standard error (calibration)."""
_CHANCE = 1e-4
"""That a volume at rest is taken to have moved, or two in one position to lie apart."""
_LOST_Z, _LOST_PART, _LEAST_PIXELS = 4.0, 0.1, 100

Array = npt.NDArray[np.float64]


def with_motion(
    reference: PlacedStack,
    series: Series,
    kinds: SeriesKinds,
    directions: Array | None,
    guides: Guides,
    config: RestorationSettings,
    progress: Progress,
) -> tuple[PlacedStack, SeriesMotion | None]:
    """The reference where most of its volumes lay, their mean; and the movement of all volumes from there.

    ``directions``: (n, 3) of diffusion, in axes of the series; 0 for a b0. None: nothing can be seen at the
    scales of the search, and all volumes lie where the reference does.
    """
    try:
        search = _Search(reference, series, kinds, directions, guides, config)
        found = search.found(progress)
    except InputError:  # nothing observed inside the head at this scale: the fit will say what that means
        return reference, None
    return _referenced(reference, series, kinds, found, guides, config)


@dataclass
class _Found:
    """Of each volume: parameters of its lattice's motion, their covariance, and its lost slices."""

    parameters: Array
    covariance: Array
    lost: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    """Whether the volume's position was looked for."""


class _Seen:
    """The volumes at one scale."""

    def __init__(
        self, reference: PlacedStack, series: Series, kinds: SeriesKinds, guide: Guide, size_mm: float,
        guides: Guides, config: RestorationSettings,
    ) -> None:  # fmt: skip
        self._reference, self._series, self._kinds, self._size_mm = reference, series, kinds, size_mm
        self._guide, self._frame, self._chunk = guide, guides.frame, config.core.chunk_elements
        self.base = observe_placed(reference.averaged(size_mm), guide.anchor, guide.gaussians, config)
        self._gaussians, self._shares = guide.gaussians, None
        if reference.displacement is not None:
            self._gaussians = displaced(guide.gaussians, reference.displacement)
            self._shares = shares_of_signal(guide.gaussians, reference.displacement)
        weights = self.base.weights > 0
        self._scales = {
            kind: float(self._averaged(series.mean(kinds.volumes_of(kind))).to(weights.device)[weights].std())
            for kind in dict.fromkeys(kinds.kinds)
        }
        if not min(self._scales.values()) > 0:
            raise InputError(f"{reference.source.name}: volumes without contrast")

    def _averaged(self, volume: Volume) -> Tensor:
        return torch.from_numpy(
            replace(self._reference, acquired=volume).averaged(self._size_mm).acquired.data
        )

    def observation(self, index: int, lost: npt.NDArray[np.bool_]) -> LatticeObservation:
        """One volume in units of its kind's spread, without its lost slices."""
        volume = Volume(self._series.volume(index), self._series.world_from_voxel, self._series.observed)
        slices = self._averaged(volume).to(self.base.slices) / self._scales[self._kinds.kinds[index]]
        kept = torch.from_numpy(~lost).to(self.base.weights)
        shape = [1, 1, 1]
        shape[self.base.slice_axis] = len(kept)
        return replace(
            self.base, slices=slices, weights=self.base.weights * kept.reshape(shape), noise_sd=1.0
        )

    def evidence(
        self, index: int, lost: npt.NDArray[np.bool_], regularization: float, expected: Tensor | None = None
    ) -> PositionEvidence:
        return PositionEvidence(
            [self.observation(index, lost)], self._gaussians, self._guide.prior, regularization, self._frame,
            self._chunk, expected, self._shares,
        )  # fmt: skip


class _Search:
    def __init__(
        self, reference: PlacedStack, series: Series, kinds: SeriesKinds, directions: Array | None,
        guides: Guides, config: RestorationSettings,
    ) -> None:  # fmt: skip
        self._kinds = kinds
        self._seen = [
            _Seen(reference, series, kinds, guides.at(size, config), size, guides, config)
            for size in (_FIRST_MM, _LAST_MM)
        ]
        n = len(series)
        n_slices = series.stored.shape[reference.source.geometry.axis]
        self._others = np.zeros((n, n))
        known = np.ones(n, bool)
        for kind in dict.fromkeys(kinds.kinds):
            own = kinds.volumes_of(kind)
            if len(own) > 1:
                g = np.zeros((len(own), 3)) if directions is None else directions[own]
                self._others[np.ix_(own, own)] = leave_one_out(g, _RIDGE)
            elif kinds.reference == tuple(own):
                known[own] = False  # the reference itself
        self.state = _Found(np.zeros((n, 6)), np.zeros((n, 6, 6)), np.zeros((n, n_slices), bool), known)

    def found(self, progress: Progress) -> _Found:
        state = self.state
        volumes = np.flatnonzero(state.known).tolist()
        with progress.stage("volumes' positions", (1 + _ROUNDS) * len(volumes)) as advance:
            curvatures: dict[str, Array] = {}
            before = np.zeros(6)
            for index in volumes:
                evidence = self._seen[0].evidence(index, state.lost[index], _ALONE)
                starts = [before, np.zeros(6)] if before.any() else [before]
                values = [evidence.value_and_gradient(own)[0] for own in starts]
                start = starts[int(np.argmin(values))]
                self._search(index, evidence, curvatures, start)
                before = state.parameters[index]
                advance(1)
            curvatures = {}
            for _ in range(_ROUNDS):
                expected = self._expected()
                for index in volumes:
                    own = expected[index] if self._others[index].any() else None
                    evidence = self._seen[1].evidence(
                        index, state.lost[index], _ALONE if own is None else _EXPECTED, own
                    )
                    self._search(index, evidence, curvatures, state.parameters[index])
                    advance(1)
        return state

    def _search(
        self, index: int, evidence: PositionEvidence, curvatures: dict[str, Array], start: Array
    ) -> FoundPositions:
        """The position of one volume; the curvature of a kind is that of its first volume."""
        kind = self._kinds.kinds[index]
        found = find_positions(evidence, curvatures.get(kind), start)
        curvatures.setdefault(kind, found.curvature)
        self.state.parameters[index], self.state.covariance[index] = found.parameters, found.covariance
        return found

    def _expected(self) -> Tensor:
        """(volumes, n) amplitudes that the others of its kind say of each; lost slices are looked for."""
        state, seen = self.state, self._seen[1]
        fitted = []
        for index in range(len(state.parameters)):
            evidence = seen.evidence(index, state.lost[index], _ALONE)
            fitted.append(evidence.amplitudes(state.parameters[index]))
        others = torch.from_numpy(self._others).to(fitted[0])
        expected = others @ torch.stack(fitted)
        self._find_lost(expected)
        return expected

    def _find_lost(self, expected: Tensor) -> None:
        """Slices whose signal falls short of what the other volumes let expect, kind by kind."""
        state, base = self.state, self._seen[1].base
        axes = tuple(axis for axis in range(3) if axis != base.slice_axis)
        enough = ((base.weights > 0).sum(axes) >= _LEAST_PIXELS).cpu().numpy()
        if not enough.any():
            return
        none = np.zeros(len(enough), bool)
        for kind in dict.fromkeys(self._kinds.kinds):
            own = self._kinds.volumes_of(kind)
            if not self._others[own].any():
                continue
            ratios = np.ones((len(own), len(enough)))
            for row, index in enumerate(own):
                evidence = self._seen[1].evidence(index, none, _ALONE)
                (predicted,) = evidence.predicted(state.parameters[index], expected[index])
                shown = self._seen[1].observation(index, none).slices
                seen, told = ((base.weights * own).sum(axes).cpu().numpy() for own in (shown, predicted))
                ratios[row, enough] = seen[enough] / np.maximum(told[enough], 1e-6 * float(told.max()))
            state.lost[own] = lost_slices(ratios, enough, _LOST_Z, _LOST_PART)


def _referenced(
    reference: PlacedStack,
    series: Series,
    kinds: SeriesKinds,
    found: _Found,
    guides: Guides,
    config: RestorationSettings,
) -> tuple[PlacedStack, SeriesMotion]:
    """Volumes in one position share it; that of most reference volumes is the reference's."""
    groups, positions = grouped(found.parameters, found.covariance)
    of_reference = groups[list(kinds.reference)]
    most = int(np.bincount(of_reference).argmax())  # rest is group 0, and wins where it ties
    whole = [v for v in kinds.reference if groups[v] == most and not found.lost[v].any()]
    shown = whole or [v for v in kinds.reference if groups[v] == most]
    before = reference.registration.target_from_anchor
    motions = [guides.frame.motion(own).numpy() for own in positions]
    placed = before @ np.linalg.inv(motions[most])
    # Headers and transforms of others say where the reference lies, whichever of its volumes that are.
    kept = config.registration == "header" or bool(reference.source.transforms)
    here = before if kept else placed
    centre_world = (here @ np.array([*guides.frame.centre_mm.tolist(), 1.0]))[:3]
    # A volume's target_from_anchor is that of the reference, moved in the target's world.
    moves = [before @ np.linalg.inv(own) @ motions[most] @ np.linalg.inv(before) for own in motions]
    by_group = [
        AT_REST if group == most else SlicePosition.of(moved, centre_world)
        for group, moved in enumerate(moves)
    ]
    errors = np.sqrt(np.trace(found.covariance, axis1=1, axis2=2))
    x, y, z = centre_world.tolist()
    motion = SeriesMotion(
        tuple(by_group[group] for group in groups),
        tuple(float(e) if known else None for e, known in zip(errors, found.known, strict=True)),
        tuple(tuple(np.flatnonzero(own).tolist()) for own in found.lost),
        (x, y, z),
    )
    if shown == list(kinds.reference):
        return reference, motion
    registration = moved_registration(reference.registration, here, guides.points_mm)
    return replace(reference, acquired=series.mean(shown), registration=registration), motion


def grouped(parameters: Array, covariance: Array) -> tuple[npt.NDArray[np.int64], list[Array]]:
    """Which group of one position each volume belongs to, and (6,) of each group; the first is rest.

    Volumes join in their order: rest if they cannot be told from it, else the latest group that they cannot
    be told from.
    """
    limit = float(stats.chi2.ppf(1 - _CHANCE, 6))
    centres, precisions = [np.zeros(6)], [np.zeros((6, 6))]
    groups = np.zeros(len(parameters), np.int64)
    lattice = np.diag([_LATTICE_ERROR_MM**2 / 3] * 3 + [1e-6] * 3)
    for v, (x, own) in enumerate(zip(parameters, covariance, strict=True)):
        precision = np.linalg.inv(own + lattice)
        for group in (0, *range(len(centres) - 1, 0, -1)):
            of_group = np.linalg.inv(precisions[group]) if group else np.zeros((6, 6))
            off = x - centres[group]
            if off @ np.linalg.solve(own + lattice + of_group, off) < limit:
                break
        else:
            centres.append(x)
            precisions.append(np.zeros((6, 6)))
            group = len(centres) - 1
        groups[v] = group
        if group:
            total = precisions[group] + precision
            centres[group] = np.linalg.solve(total, precisions[group] @ centres[group] + precision @ x)
            precisions[group] = total
    return groups, centres
