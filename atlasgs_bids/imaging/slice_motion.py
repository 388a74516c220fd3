"""Where the head was during each shot of a stack: rigid positions and gains, from the slices themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from atlasgs_bids.imaging.profile import SliceProfile
from atlasgs_bids.imaging.slices import SliceGeometry, slice_normal
from atlasgs_bids.imaging.volume import Volume, voxel_sizes_mm

_MAX_PIXELS = 1500
_MIN_PIXELS = 150
"""Of the foreground in a shot, below which it says nothing of the position."""
_PRIOR_MM, _PRIOR_DEG = 5.0, 5.0
"""Standard deviation of a shot's position about that of its pass through the stack."""
_PIXELS_PER_SAMPLE = 10.0
"""What the reference does not explain varies slowly: so many pixels count as one independent one."""
_DIFFERENCE = 0.02
"""mm and degrees, for slopes."""
_GAIN_LIMITS = (0.5, 2.0)

Affine = npt.NDArray[np.float64]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shot:
    """Slices that were acquired at one time."""

    slices: tuple[int, ...]
    packet: int
    """Which pass through the stack it belongs to."""


@dataclass(frozen=True)
class SlicePosition:
    """Where one slice was acquired, relative to where its stack is."""

    translation_mm: tuple[float, float, float]
    """RAS, of the head's centre."""
    rotation_deg: tuple[float, float, float]
    """Rotation vector, RAS."""
    gain: float
    estimated: bool = True
    """False where the slice shows too little of the head and has the position of its pass."""

    @classmethod
    def of(cls, moved: Affine, centre_world: Array, gain: float = 1.0) -> SlicePosition:
        """From a (4, 4) rigid point map in the target's world, about the centre."""
        t = moved[:3, :3] @ centre_world + moved[:3, 3] - centre_world
        r = Rotation.from_matrix(moved[:3, :3]).as_rotvec(degrees=True)
        return cls((float(t[0]), float(t[1]), float(t[2])), (float(r[0]), float(r[1]), float(r[2])), gain)

    def moved(self, centre_world: Array) -> Affine:
        """(4, 4) rigid point map in the target's world, about the centre."""
        motion = np.eye(4)
        motion[:3, :3] = Rotation.from_rotvec(self.rotation_deg, degrees=True).as_matrix()
        motion[:3, 3] = centre_world + self.translation_mm - motion[:3, :3] @ centre_world
        return motion


AT_REST = SlicePosition((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0)


def shots_of(n_slices: int, sidecar: Mapping[str, Any]) -> list[Shot]:
    """The shots in order of time, from ``SliceTiming``; without it, even slices and then odd ones.

    Slices of one time are one shot (multiband). A packet is one pass through the stack: it ends where the
    next shot lies in the other direction.

    >>> [shot.slices for shot in shots_of(5, {})], [shot.packet for shot in shots_of(5, {})]
    ([(0,), (2,), (4,), (1,), (3,)], [0, 0, 0, 1, 1])
    """
    timing = sidecar.get("SliceTiming")
    if isinstance(timing, (list, tuple)) and len(timing) == n_slices:
        backwards = str(sidecar.get("SliceEncodingDirection", "")).endswith("-")
        times = [float(time) for time in (reversed(timing) if backwards else timing)]
    else:
        times = [(k % 2) * n_slices + float(k) for k in range(n_slices)]
    shots: list[Shot] = []
    packet, direction = 0, 0
    for time in sorted(set(times)):
        slices = tuple(k for k, own in enumerate(times) if own == time)
        step = int(np.sign(slices[0] - shots[-1].slices[0])) if shots else 0
        if direction and step != direction:
            packet, direction = packet + 1, 0
        else:
            direction = direction or step
        shots.append(Shot(slices, packet))
    return shots


@dataclass(frozen=True)
class SliceMatcher:
    """Compares slices with a reference image in the anchor's world that looks as they should."""

    acquired: Volume
    geometry: SliceGeometry
    profile: SliceProfile
    target_from_anchor: Affine
    inside: npt.NDArray[np.bool_]
    """Native voxels of the foreground."""
    centre_world: Array
    """Of the foreground, in the target's world."""

    def positions(self, shots: Sequence[Shot], reference: Volume) -> dict[int, SlicePosition]:
        """The position of every slice: each packet's, then each shot's about it."""
        found: dict[int, SlicePosition] = {}
        for packet in sorted({shot.packet for shot in shots}):
            members = [shot for shot in shots if shot.packet == packet]
            slices = [k for shot in members for k in shot.slices]
            common = self._estimate(slices, reference, AT_REST, prior=None)
            for shot in members:
                own = self._estimate(shot.slices, reference, common or AT_REST, prior=common or AT_REST)
                for k in shot.slices:
                    found[k] = own or replace(common or AT_REST, gain=1.0, estimated=False)
        return found

    def _estimate(
        self,
        slices: Sequence[int],
        reference: Volume,
        start: SlicePosition,
        prior: SlicePosition | None,
    ) -> SlicePosition | None:
        """Robust least squares over position, the gain solved for in between; None: too little to see."""
        pixels = self._pixels(slices)
        if len(pixels) < _MIN_PIXELS:
            return None
        seen = self.acquired.data[tuple(pixels.T)].astype(np.float64)
        points, weights = self._points(pixels)
        to_voxel = np.linalg.inv(reference.world_from_voxel) @ np.linalg.inv(self.target_from_anchor)

        def predicted(values: Array) -> Array:
            position = SlicePosition(tuple(values[:3]), tuple(values[3:]), 1.0)
            voxel_from_target = to_voxel @ np.linalg.inv(position.moved(self.centre_world))
            indices = voxel_from_target[:3, :3] @ points + voxel_from_target[:3, 3:]
            sampled = ndimage.map_coordinates(reference.data, indices, order=1, mode="nearest")
            return np.asarray(weights @ sampled.reshape(len(weights), -1))

        def gain_of(image: Array) -> float:
            norm = float(image @ image)
            return float(np.clip(seen @ image / norm, *_GAIN_LIMITS)) if norm > 0 else 1.0

        first = np.array([*start.translation_mm, *start.rotation_deg])
        image = predicted(first)
        scale = max(float(np.std(seen - gain_of(image) * image)), 1e-6 * float(np.abs(seen).max()), 1e-12)
        spread = np.array([_PRIOR_MM] * 3 + [_PRIOR_DEG] * 3)

        def residual(values: Array) -> Array:
            image = predicted(values)
            misfit = (seen - gain_of(image) * image) / (scale * np.sqrt(_PIXELS_PER_SAMPLE))
            if prior is None:
                return misfit
            about = np.array([*prior.translation_mm, *prior.rotation_deg])
            return np.concatenate([misfit, (values - about) / spread])

        def slopes(values: Array) -> Array:
            here = residual(values)
            steps = _DIFFERENCE * np.eye(6)
            return np.stack([(residual(values + step) - here) / _DIFFERENCE for step in steps], axis=1)

        solved = least_squares(residual, first, jac=slopes, loss="soft_l1", xtol=1e-3, ftol=1e-4, max_nfev=12)
        t, r = solved.x[:3], solved.x[3:]
        gain = gain_of(predicted(solved.x))
        translation_mm = (float(t[0]), float(t[1]), float(t[2]))
        return SlicePosition(translation_mm, (float(r[0]), float(r[1]), float(r[2])), gain)

    def _pixels(self, slices: Sequence[int]) -> npt.NDArray[np.int64]:
        """(n, 3) native indices of foreground pixels, evenly thinned."""
        chosen = np.zeros_like(self.inside)
        index: list[Any] = [slice(None)] * 3
        index[self.geometry.axis] = list(slices)
        chosen[tuple(index)] = self.inside[tuple(index)]
        pixels = np.argwhere(chosen)
        return pixels[:: max(1, len(pixels) // _MAX_PIXELS)]

    def _points(self, pixels: npt.NDArray[np.int64]) -> tuple[Array, Array]:
        """Target world points (3, k n) through the slices' thickness, and their weights (k,)."""
        affine = self.acquired.world_from_voxel
        centres = affine[:3, :3] @ pixels.T + affine[:3, 3:]
        normal = slice_normal(affine, self.geometry.axis)
        in_plane_mm = float(voxel_sizes_mm(affine)[[a for a in range(3) if a != self.geometry.axis]].min())
        offsets_mm = self.profile.offsets_mm
        n_steps = int(np.clip(np.ceil((offsets_mm[-1] - offsets_mm[0]) / in_plane_mm), 1, 9))
        edges = np.linspace(offsets_mm[0], offsets_mm[-1], n_steps + 1)
        weights = np.diff(np.interp(edges, offsets_mm, self.profile.cumulative))
        middles = (edges[1:] + edges[:-1]) / 2
        points = centres[:, None, :] + middles[None, :, None] * normal[:, None, None]
        return points.reshape(3, -1), weights / weights.sum()


def largest_movement(motion: Iterable[SlicePosition]) -> tuple[float, float]:
    """Largest translation (mm) and rotation (degrees) of the slices whose position was estimated."""
    own = [position for position in motion if position.estimated]
    translation_mm = max((float(np.linalg.norm(p.translation_mm)) for p in own), default=0.0)
    return translation_mm, max((float(np.linalg.norm(p.rotation_deg)) for p in own), default=0.0)
