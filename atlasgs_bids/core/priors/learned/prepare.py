"""A target's stack as the learned prior takes it: units of its own, sharp planes of it, and its lattice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.priors.learned.degradation import (
    Degradation,
    Sampling,
    acquired_degradation,
    along,
    sampling_of,
)
from atlasgs_bids.core.priors.learned.pairs import (
    HELD_OUT_SIDE,
    Planes,
    fill_unobserved,
    held_out_blocks,
    make_planes,
    pooled,
)

_LEAST_VOXELS = 500
_LEAST_SAMPLES = 2
"""Of a line, once it is blurred."""
_COVERED = 0.1
"""Least share, of the most that any cell has, that a cell of the lattice has in the slices to count."""


_WHOLE = 0.99
"""Share of a pooled voxel that has to count for it to count."""


class TooLittleDataError(ValueError):
    """A target from which nothing can be learned."""


@dataclass(frozen=True)
class Stack:
    """What the prior learns from: the slices of one target, and the anchor beside them."""

    observation: LatticeObservation
    anchor: Float[Tensor, "X Y Z"]
    """Resampled at the lattice's cells; 0 outside its field of view."""


@dataclass(frozen=True)
class View:
    """Planes to train on, and what the network's error on them is measured against."""

    planes: Planes
    acquired: Float[Tensor, "k v u"]
    held_out: Float[Tensor, "k v u"]
    """1: acquired, and kept from training."""
    counted: Float[Tensor, "k v u"]
    """1: acquired."""
    order: tuple[int, int, int]
    """Axes of the stack that k, v, u are."""
    through: Float[Tensor, "k w"] | None
    """Slices from planes; None: the planes are slices."""
    profile: Float[Tensor, " n"] | None
    """Weights of the cells in a slice; None: the blur is one in plane."""
    v_cells: float
    """Size of a voxel along v in cells of the slice axis."""

    def unpooled(self, x: Float[Tensor, "k v u"], shape: tuple[int, int, int]) -> Float[Tensor, "x y z"]:
        """Values of the view in each of the stack's voxels; 0 in those that no pooled one holds."""
        n = shape[self.order[2]] // x.shape[2]
        spread = x.repeat_interleave(n, 2)
        filled = torch.nn.functional.pad(spread, (0, shape[self.order[2]] - spread.shape[2]))
        inverse = [self.order.index(axis) for axis in range(3)]
        return filled.permute(inverse)


@dataclass(frozen=True)
class PreparedStack:
    """A stack in units in which the observed intensities range over about 1, and what follows from it."""

    observation: LatticeObservation
    target: Float[Tensor, "x y z"]
    anchor: Float[Tensor, "X Y Z"]
    observed: Float[Tensor, "x y z"]
    held_out: Float[Tensor, "x y z"]
    """1: observed, and kept from training."""
    offset: float
    scale: float
    samplings: tuple[Sampling, Sampling, Sampling]
    degradations: tuple[Degradation, Degradation, Degradation]
    """What the acquisition did along each axis of the lattice; one phase each."""
    interpolated: Float[Tensor, "X Y Z"]
    """The target on the lattice, before anything is learned."""

    @property
    def plane_axes(self) -> tuple[int, int]:
        first, second = (axis for axis in range(3) if axis != self.observation.slice_axis)
        return first, second

    @property
    def sharp_axes(self) -> tuple[int, ...]:
        """In-plane axes along which the lattice is as coarse as the slices."""
        return tuple(axis for axis in self.plane_axes if self.samplings[axis].is_identity)

    def slice_cells(self, axis: int) -> float:
        """A voxel along an in-plane axis in cells of the slice axis."""
        return self.observation.cell_mm[axis] / self.observation.cell_mm[self.observation.slice_axis]

    def slice_distance(self, axis: int) -> float:
        """Distance between slices in the acquired voxels along an axis; 1 along the slice axis."""
        cell_mm, slice_axis = self.observation.cell_mm, self.observation.slice_axis
        strides = [sampling.stride for sampling in self.samplings]
        return strides[slice_axis] * cell_mm[slice_axis] / (strides[axis] * cell_mm[axis])

    def linear(self, axis: int) -> Float[Tensor, "cells samples"]:
        """Linear interpolation from the acquired voxels along an axis to the lattice's cells."""
        native_from_lattice = self.observation.acquisition.native_from_lattice[axis]
        n_samples, n_cells = self.target.shape[axis], self.anchor.shape[axis]
        cells = torch.arange(n_cells, dtype=torch.float64)
        at = (cells * native_from_lattice[axis] + native_from_lattice[3]).clamp(0, n_samples - 1)
        distance = (at[:, None] - torch.arange(n_samples, dtype=torch.float64)).abs()
        return (1 - distance).clamp_min(0).float().to(self.target.device)

    @property
    def slice_matrix(self) -> Float[Tensor, "slices cells"]:
        return self.observation.acquisition.axis_matrix(self.observation.slice_axis).to(self.target)

    def pool(self, axis: int) -> int:
        """Voxels along an in-plane axis that make up a cell of the slice axis, to train at its scale."""
        stride = self.samplings[self.observation.slice_axis].stride
        most = self.target.shape[axis] // (_LEAST_SAMPLES * stride)
        return max(1, min(round(1 / self.slice_cells(axis)), most))

    def nearest_slice(self) -> Int[Tensor, " cells"]:
        """For each cell of the slice axis, the slice whose centre is nearest."""
        axis = self.observation.slice_axis
        native_from_lattice = self.observation.acquisition.native_from_lattice[axis]
        cells = torch.arange(self.anchor.shape[axis], dtype=torch.float64)
        nearest = (cells * native_from_lattice[axis] + native_from_lattice[3]).round().long()
        return nearest.clamp(0, self.target.shape[axis] - 1).to(self.target.device)

    def split(
        self, order: tuple[int, int, int], n_pooled: int
    ) -> tuple[Float[Tensor, "k v u"], Float[Tensor, "k v u"], Float[Tensor, "k v u"]]:
        """What counts in training, what the error is measured on, the same if voxels are few, and both."""
        trained, measured, counted = (
            (pooled(each.permute(order), n_pooled) > _WHOLE).float()
            for each in (self.observed - self.held_out, self.held_out, self.observed)
        )
        return trained, measured if bool(measured.any()) else trained, counted


def prepare(stack: Stack, held_out_fraction: float, generator: torch.Generator) -> PreparedStack:
    """Raises TooLittleDataError where hardly a voxel is observed."""
    observation = stack.observation
    acquisition, slice_axis = observation.acquisition, observation.slice_axis
    observed = (observation.weights > 0).float()
    values = observation.slices[observation.weights > 0].float()
    if len(values) < _LEAST_VOXELS:
        raise TooLittleDataError(
            f"the slices hold {len(values)} observed voxels, and the learned prior needs {_LEAST_VOXELS}; "
            "take the graph prior for this target"
        )
    low, offset, high = percentiles(values, (0.05, 0.5, 0.95))
    scale = high - low or float((values - offset).abs().mean()) or 1.0
    normalized = torch.movedim((observation.slices.float() - offset) / scale, slice_axis, 0)
    # Nothing is learned from what the anchor does not see; what lies between it and the others is told by it.
    known = observed if observation.cut is None else observed.maximum(observation.cut)
    filled = fill_unobserved(normalized, torch.movedim(known, slice_axis, 0))
    target = torch.movedim(filled, 0, slice_axis).contiguous()
    seen = stack.anchor[stack.anchor != 0].float()
    low, _, high = percentiles(seen, (0.05, 0.5, 0.95)) if len(seen) else (0.0, 0.0, 0.0)
    n_k, n_v, n_u = torch.movedim(observed, slice_axis, 0).shape
    step = float(acquisition.native_from_lattice[slice_axis, slice_axis])
    depth = math.ceil(HELD_OUT_SIDE * step)
    blocks = held_out_blocks((n_k, n_v, n_u), depth, held_out_fraction, generator)
    held_out = observed * torch.movedim(blocks, 0, slice_axis).to(observed.device)
    if not (bool(held_out.any()) and bool((observed - held_out).any())):
        held_out = torch.zeros_like(observed)

    interpolated, samplings, degradations = target, [], []
    for axis in range(3):
        matrix = acquisition.axis_matrix(axis)
        sampling = sampling_of(matrix, round(1 / float(acquisition.native_from_lattice[axis, axis])))
        rows = torch.movedim(known, axis, 0).flatten(1).amax(1)
        kept = rows if axis == slice_axis else torch.ones_like(rows)
        back, D = acquired_degradation(sampling, matrix, kept)
        if not sampling.is_identity:
            interpolated = along(back, interpolated, axis)
        samplings.append(sampling)
        degradations.append(D.to(target.device))
    return PreparedStack(
        observation=observation,
        target=target,
        anchor=stack.anchor.float() / (high - low or 1.0),
        observed=observed,
        held_out=held_out,
        offset=offset,
        scale=scale,
        samplings=(samplings[0], samplings[1], samplings[2]),
        degradations=(degradations[0], degradations[1], degradations[2]),
        interpolated=interpolated,
    )


def native_views(data: PreparedStack, axes: Sequence[int]) -> list[View]:
    """The acquired slices, to be blurred along either of their axes as the lattice is along ``axes``.

    None where it is not blurred there. Raises TooLittleDataError where the slices are too small.
    """
    samplings = {axis: data.samplings[axis] for axis in axes if not data.samplings[axis].is_identity}
    anchor = data.observation.acquisition.forward(data.anchor)
    views = []
    for axis, sampling in samplings.items():
        through_slices = axis == data.observation.slice_axis
        for u, v in (data.plane_axes, data.plane_axes[::-1]):
            n_pooled = data.pool(u) if through_slices else 1
            order = (data.observation.slice_axis, v, u)
            target, guide = (pooled(volume.permute(order), n_pooled) for volume in (data.target, anchor))
            trained, measured, counted = data.split(order, n_pooled)
            stays = data.samplings[v] if through_slices and not data.samplings[v].is_identity else None
            if target.shape[2] >= _LEAST_SAMPLES * sampling.stride:
                planes = make_planes(target, guide, trained, sampling, stays)
                profile = data.samplings[data.observation.slice_axis].weights if through_slices else None
                views.append(
                    View(
                        planes, planes.target[0], measured, counted, order, None, profile, data.slice_cells(v)
                    )
                )
    if samplings and not views:
        n_u, n_v = (data.target.shape[axis] for axis in data.plane_axes)
        stride = min(sampling.stride for sampling in samplings.values())
        raise TooLittleDataError(
            f"slices of {n_u} × {n_v} voxels hold fewer than {_LEAST_SAMPLES} samples of {stride} voxels; "
            "take the graph prior for this target"
        )
    return views


def lattice_views(data: PreparedStack, image: Float[Tensor, "X Y Z"]) -> list[View]:
    """An image on the lattice, to be blurred along the axes in which it is known to be sharp."""
    axis = data.observation.slice_axis
    sampling = data.samplings[axis]
    share = data.slice_matrix.sum(0)
    covered = (share > _COVERED * share.max()).float()
    first, second = data.plane_axes
    views = []
    for u, v in ((first, second), (second, first)):
        n_pooled = data.pool(u)
        order = (axis, v, u)
        target, guide = (pooled(volume.permute(order), n_pooled) for volume in (image, data.anchor))
        if data.samplings[u].is_identity and target.shape[2] >= _LEAST_SAMPLES * sampling.stride:
            trained, measured, counted = data.split(order, n_pooled)
            weights = trained[data.nearest_slice()] * covered[:, None, None]
            planes = make_planes(target, guide, weights, sampling)
            acquired = pooled(data.target.permute(order), n_pooled)
            views.append(
                View(
                    planes,
                    acquired,
                    measured,
                    counted,
                    order,
                    data.slice_matrix,
                    sampling.weights,
                    data.slice_cells(v),
                )
            )
    return views


def percentiles(values: Float[Tensor, " n"], fractions: Sequence[float]) -> list[float]:
    """Values at fractions of the ordered ones; torch's own quantile ends at 16 million values."""
    ordered = values.sort().values
    return [float(ordered[min(int(f * len(ordered)), len(ordered) - 1)]) for f in fractions]
