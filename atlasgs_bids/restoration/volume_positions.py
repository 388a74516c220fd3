"""Where the head was in each volume of a series, and which slices lost their signal.

A volume's position is where the model's evidence is greatest (core/position.py): first against the anchor
alone, then with a graph that counts from what the other volumes of its kind say, each from where it lay
(docs/decisions/0036-volumes-that-move.md). What the evidence does not tell from rest stays at rest.

Longer than 300 lines: one search, whose steps share its scales, weights and expectations.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage, special
from torch import Tensor

from atlasgs_bids.core.position import PositionEvidence, find_positions
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.registration.register import moved_registration
from atlasgs_bids.imaging.series import Series, SeriesKinds
from atlasgs_bids.imaging.slice_motion import AT_REST, SlicePosition
from atlasgs_bids.imaging.volume import Volume, voxel_sizes_mm
from atlasgs_bids.imaging.volume_motion import SeriesMotion, leave_one_out, lost_slices
from atlasgs_bids.restoration.guides import Guide, Guides, means_in_voxels
from atlasgs_bids.restoration.observation import displaced, observe_placed, shares_of_signal
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)

_FIRST_MM, _LAST_MM = 4.0, 3.0
"""Of Gaussians and pixels."""
_FIRST_ENOUGH_MM, _LAST_ENOUGH_MM = 0.1, 0.02
"""Steps at which searches end."""
_ALONE, _EXPECTED, _FREE = 0.1, 1.0, 0.1
"""λ of positions with the anchor alone, and about what is expected; of amplitudes at a position."""
_RIDGE = 3.0
_FIRST_DEPTH_MM, _LAST_DEPTH_MM = 5.0, 3.5
"""In the head of what a search sees: as far as it may lead."""
_LATTICE_ERROR_MM = 0.05
"""By which the lattice of the Gaussians holds a volume: beside the standard error (calibration)."""
_CHANCE = 1e-4
"""That two volumes in one position are taken to lie apart."""
_CONTRASTS_APART_MM = 0.6
"""Up to which a kind as a whole is found elsewhere than another that lies where it does."""
_LOST_Z, _LOST_PART = 4.0, 0.15
_LEAST_PIXELS, _LEAST_AREA = 50, 0.25
"""Of the head in a slice, below which it is not judged; the latter in parts of the largest slice."""

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


class _Seen:
    """The volumes at one scale."""

    def __init__(
        self, reference: PlacedStack, series: Series, kinds: SeriesKinds, guide: Guide, size_mm: float,
        guides: Guides, config: RestorationSettings,
    ) -> None:  # fmt: skip
        self._reference, self._series, self._kinds, self._size_mm = reference, series, kinds, size_mm
        self._guide, self._frame, self._chunk = guide, guides.frame, config.core.chunk_elements
        self._config = config
        self._coarse = reference.averaged(size_mm)
        self.base = observe_placed(self._coarse, guide.anchor, guide.gaussians, config)
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

    def features(self, reference: Tensor) -> Tensor:
        """(n, 6) of each Gaussian: all products of 1, the anchor and the reference's amplitudes."""
        anchor = self._guide.anchor
        means_vox = means_in_voxels(self._guide.gaussians, anchor)
        t = torch.from_numpy(anchor.sampled(means_vox)[0] / anchor.scale).to(reference)
        s = reference / reference.abs().mean()
        return torch.stack([torch.ones_like(t), t, s, t * t, t * s, s * s], dim=1)

    def weights_at(self, parameters: Array, depth_mm: float) -> Tensor:
        """Of what lies as deep in the head as that, where a volume was found.

        Background that is seen is explained where the head is looked for, and not where it lies: its noise,
        which is no less than the signal at a high b, would hold a volume where it was looked for.
        """
        weights, coarse, guide = self.base.weights, self._coarse, self._guide
        if parameters.any():
            motion = self._frame.motion(parameters).numpy()
            moved = coarse.at(coarse.registration.target_from_anchor @ np.linalg.inv(motion))
            weights = observe_placed(moved, guide.anchor, guide.gaussians, self._config).weights
        sizes_mm = voxel_sizes_mm(coarse.acquired.world_from_voxel)
        inside = ndimage.distance_transform_edt(weights.cpu().numpy() > 0, sampling=sizes_mm) > depth_mm
        return weights * torch.from_numpy(inside).to(weights)

    def shown(self, index: int) -> Tensor:
        """The slices of one volume in units of its kind's spread."""
        volume = Volume(self._series.volume(index), self._series.world_from_voxel, self._series.observed)
        return self._averaged(volume).to(self.base.slices) / self._scales[self._kinds.kinds[index]]

    def evidence(
        self,
        index: int,
        weights: Tensor,
        lost: npt.NDArray[np.bool_],
        regularization: float,
        expected: Tensor | None = None,
    ) -> PositionEvidence:
        """J of one volume without its lost slices."""
        shape = [1, 1, 1]
        shape[self.base.slice_axis] = len(lost)
        kept = weights * torch.from_numpy(~lost).to(weights).reshape(shape)
        observation = replace(self.base, slices=self.shown(index), weights=kept, noise_sd=1.0)
        return PositionEvidence(
            [observation], self._gaussians, self._guide.prior, regularization, self._frame, self._chunk,
            expected, self._shares,
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
        for kind in dict.fromkeys(kinds.kinds):
            own = kinds.volumes_of(kind)
            if len(own) > 1:
                g = np.zeros((len(own), 3)) if directions is None else directions[own]
                self._others[np.ix_(own, own)] = leave_one_out(g, _RIDGE)
        self.state = _Found(np.zeros((n, 6)), np.zeros((n, 6, 6)), np.zeros((n, n_slices), bool))

    def found(self, progress: Progress) -> _Found:
        """Coarse to fine by the reference, then by the other volumes of each kind."""
        coarse, fine = self._seen
        with progress.stage("volumes' positions", 3 * len(self.state.parameters)) as advance:
            self._by_reference(coarse, _FIRST_DEPTH_MM, _FIRST_ENOUGH_MM, advance)
            curvatures = self._by_reference(fine, _LAST_DEPTH_MM, _LAST_ENOUGH_MM, advance)
            self._by_others(fine, curvatures, advance)
        return self.state

    def _by_reference(
        self, seen: _Seen, depth_mm: float, enough_mm: float, advance: Callable[[int], None]
    ) -> dict[str, Array]:
        """Reference volumes by the anchor; all others by what anchor and reference let expect of them.

        The curvatures of J of the latter, by kind.
        """
        state, reference, kinds = self.state, self._kinds.reference, self._kinds.kinds
        others = [v for v in range(len(state.parameters)) if v not in reference]
        curvatures: dict[str, Array] = {}
        before = np.zeros(6)
        shown = []
        for index in reference:
            weights = seen.weights_at(state.parameters[index], depth_mm)
            evidence = seen.evidence(index, weights, state.lost[index], _ALONE)
            start = self._start(index, evidence, before)
            before = self._search(index, evidence, curvatures, start, enough_mm)
            shown.append(evidence.amplitudes(before))
            advance(1)
        features = seen.features(torch.stack(shown).mean(0))
        for index in others:
            weights = seen.weights_at(state.parameters[index], depth_mm)
            free = seen.evidence(index, weights, state.lost[index], _FREE)
            start = self._start(index, free, before)
            own = free.amplitudes(start)
            expected = _nearest(features, own)
            evidence = seen.evidence(index, weights, state.lost[index], _EXPECTED, expected)
            before = self._search(index, evidence, curvatures, start, enough_mm)
            advance(1)
        return {kind: own for kind, own in curvatures.items() if kind not in {kinds[v] for v in reference}}

    def _start(self, index: int, evidence: PositionEvidence, before: Array) -> Array:
        """Where a volume was found; else rest, or where the volume before lay: the lower J of both."""
        if self.state.parameters[index].any():
            return self.state.parameters[index]
        starts = [before, np.zeros(6)] if before.any() else [before]
        return starts[int(np.argmin([evidence.value_and_gradient(own)[0] for own in starts]))]

    def _by_others(self, seen: _Seen, curvatures: dict[str, Array], advance: Callable[[int], None]) -> None:
        """Each volume by what the others of its kind let expect of it, without the slices that it lost."""
        state = self.state
        weighted = [seen.weights_at(own, _LAST_DEPTH_MM) for own in state.parameters]
        expected = self._expected(weighted)
        for index, own in enumerate(expected):
            if self._others[index].any():
                evidence = seen.evidence(index, weighted[index], state.lost[index], _EXPECTED, own)
                self._search(index, evidence, curvatures, state.parameters[index], _LAST_ENOUGH_MM)
            advance(1)

    def _search(
        self,
        index: int,
        evidence: PositionEvidence,
        curvatures: dict[str, Array],
        start: Array,
        enough_mm: float,
    ) -> Array:
        """The position of one volume; the curvature of a kind is that of its first volume."""
        kind = self._kinds.kinds[index]
        found = find_positions(evidence, curvatures.get(kind), start, enough_mm)
        curvatures.setdefault(kind, found.curvature)
        self.state.parameters[index], self.state.covariance[index] = found.parameters, found.covariance
        return found.parameters

    def _expected(self, weighted: Sequence[Tensor]) -> Tensor:
        """(volumes, n) amplitudes that the others of its kind say of each; lost slices are looked for."""
        state, seen = self.state, self._seen[1]
        fitted = []
        for index, weights in enumerate(weighted):
            evidence = seen.evidence(index, weights, state.lost[index], _FREE)
            fitted.append(evidence.amplitudes(state.parameters[index]))
        others = torch.from_numpy(self._others).to(fitted[0])
        expected = others @ torch.stack(fitted)
        self._find_lost(expected, weighted)
        return expected

    def _find_lost(self, expected: Tensor, weighted: Sequence[Tensor]) -> None:
        """Slices whose signal falls short of what the other volumes let expect, kind by kind."""
        state, seen = self.state, self._seen[1]
        axes = tuple(axis for axis in range(3) if axis != seen.base.slice_axis)
        none = np.zeros(self.state.lost.shape[1], bool)
        for kind in dict.fromkeys(self._kinds.kinds):
            volumes = self._kinds.volumes_of(kind)
            if not self._others[volumes].any():
                continue
            ratios, known = [], []
            for index in volumes:
                weights = weighted[index]
                evidence = seen.evidence(index, weights, none, _FREE)
                (told,) = evidence.predicted(state.parameters[index], expected[index])
                sums = [(weights * own).sum(axes).cpu().numpy() for own in (seen.shown(index), told)]
                ratios.append(sums[0] / np.maximum(sums[1], 1e-6 * float(sums[1].max())))
                n_pixels = (weights > 0).sum(axes).cpu().numpy()
                known.append(n_pixels >= max(_LEAST_PIXELS, _LEAST_AREA * n_pixels.max()))
            state.lost[volumes] = lost_slices(np.array(ratios), np.array(known), _LOST_Z, _LOST_PART)


def _nearest(features: Tensor, amplitudes: Tensor) -> Tensor:
    """The combination of features (n, k) that is nearest to amplitudes (n,)."""
    # On the CPU, whose solver takes features that depend on each other.
    a, y = features.cpu().double(), amplitudes.cpu().double()
    return (a @ torch.linalg.lstsq(a, y[:, None]).solution[:, 0]).to(amplitudes)


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
    most = _most(groups, kinds.reference)
    groups = _joined(groups, positions, most, kinds)
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
        tuple(map(float, errors)),
        tuple(tuple(np.flatnonzero(own).tolist()) for own in found.lost),
        (x, y, z),
    )
    if shown == list(kinds.reference):
        return reference, motion
    registration = moved_registration(reference.registration, here, guides.points_mm)
    return replace(reference, acquired=series.mean(shown), registration=registration), motion


def _most(groups: npt.NDArray[np.int64], volumes: Sequence[int]) -> int:
    """The group of most of some volumes; the earliest of several."""
    return int(np.bincount(groups[list(volumes)]).argmax())


def _joined(
    groups: npt.NDArray[np.int64], positions: list[Array], rest: int, kinds: SeriesKinds
) -> npt.NDArray[np.int64]:
    """Each kind's main group taken to be at rest where it is as near as contrasts are apart by themselves.

    Where the head lay still, one contrast is found elsewhere than another. What most volumes of a kind have
    of it all of them have: their ``positions`` are shifted with it.
    """
    groups = groups.copy()
    for kind in dict.fromkeys(kinds.kinds):
        volumes = np.array(kinds.volumes_of(kind))
        main = _most(groups, kinds.volumes_of(kind))
        off = positions[main] - positions[rest]
        n_main = int((groups[volumes] == main).sum())
        if main == rest or n_main < max(2, len(volumes) / 3) or np.linalg.norm(off) > _CONTRASTS_APART_MM:
            continue
        for v in volumes:
            if groups[v] == main:
                groups[v] = rest
            elif groups[v] != rest:
                positions.append(positions[groups[v]] - off)
                groups[v] = len(positions) - 1
    return groups


def grouped(parameters: Array, covariance: Array) -> tuple[npt.NDArray[np.int64], list[Array]]:
    """Which group of one position each volume belongs to, and (6,) of each group.

    Volumes join in their order: the largest group first that they cannot be told from, else a new one.
    """
    limit = float(special.chdtri(6, _CHANCE))
    lattice = np.diag([_LATTICE_ERROR_MM**2 / 3] * 3 + [0.0] * 3)
    precisions = [np.linalg.inv(own + lattice) for own in covariance]
    members: list[list[int]] = []
    centres: list[Array] = []
    totals: list[Array] = []
    for v, (x, own) in enumerate(zip(parameters, precisions, strict=True)):
        for group in sorted(range(len(members)), key=lambda g: -len(members[g])):
            off = x - centres[group]
            spread = np.linalg.inv(own) + np.linalg.inv(totals[group])
            if off @ np.linalg.solve(spread, off) < limit:
                break
        else:
            group = len(members)
            members.append([])
            centres.append(np.zeros(6))
            totals.append(np.zeros((6, 6)))
        members[group].append(v)
        total = totals[group] + own
        centres[group] = np.linalg.solve(total, totals[group] @ centres[group] + own @ x)
        totals[group] = total
    groups = np.zeros(len(parameters), np.int64)
    for group, own_members in enumerate(members):
        groups[own_members] = group
    return groups, centres
