"""The anchor as the target's scanner would see it: contrast matched, averaged over target voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from atlasgs_bids.imaging.volume import Volume, voxel_sizes_mm

_N_KNOTS = 12
_N_SAMPLES = 60_000
_BEND_PENALTY = 1e-3

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ContrastMap:
    """Target intensity as a piecewise linear function of anchor intensity."""

    anchor_knots: Array
    target_values: Array
    explained: float
    """Fraction of the target's variance that the map explains once averaged over the target's voxels."""

    def apply(self, anchor_values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Target intensities predicted at the anchor's resolution."""
        return np.interp(anchor_values, self.anchor_knots, self.target_values).astype(np.float32)


def voxel_average(anchor: Volume, target_voxel_from_origin: Array) -> Volume:
    """The anchor averaged over the box that a target voxel spans, at every anchor voxel.

    ``target_voxel_from_origin`` has the three edges of a target voxel as columns, in the anchor's world, mm.
    The box is exact at any orientation: a product of sinc functions of the spatial frequency.
    """
    edges_vox = np.linalg.inv(anchor.world_from_voxel[:3, :3]) @ _missing_edges(
        anchor, target_voxel_from_origin
    )
    margin = np.ceil(np.abs(edges_vox).sum(axis=1) / 2).astype(int) + 1
    padded = np.pad(anchor.data, [(n, n) for n in margin], mode="edge")
    shape = [fft.next_fast_len(n, real=True) for n in padded.shape]
    spectrum = fft.rfftn(padded, shape)
    frequencies = [np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2])]
    i, j, k = np.meshgrid(*[f.astype(np.float32) for f in frequencies], indexing="ij", sparse=True)
    for edge in edges_vox.T.astype(np.float32):
        if np.abs(edge).max() > 0:
            spectrum *= np.sinc(i * edge[0] + j * edge[1] + k * edge[2])
    inner = tuple(slice(int(m), int(m) + n) for m, n in zip(margin, anchor.data.shape, strict=True))
    return Volume(fft.irfftn(spectrum, shape)[inner].astype(np.float32), anchor.world_from_voxel)


def fit_contrast(
    anchor: Volume,
    foreground: npt.NDArray[np.bool_],
    target: Volume,
    inside: npt.NDArray[np.bool_],
    anchor_from_target: Array,
    seed: int,
) -> ContrastMap:
    """Least squares fit of the target's voxels ``inside`` by the averaged, contrast-mapped anchor.

    Averaging comes after the map, as in the scanner: a thick voxel with half of each tissue has the mean of
    the two target intensities, which no map of the averaged anchor can give.
    """
    quantiles = np.quantile(anchor.data[foreground].astype(np.float64), np.linspace(0.01, 0.99, _N_KNOTS))
    # Voxels at the edge of the foreground also hold what lies outside: air is a tissue of its own.
    knots = np.unique([float(anchor.data.min()), *quantiles])
    indices = np.argwhere(inside)
    if len(indices) > _N_SAMPLES:
        chosen = np.random.default_rng(seed).choice(len(indices), _N_SAMPLES, replace=False)
        indices = indices[np.sort(chosen)]
    acquired = target.data[tuple(indices.T)].astype(np.float64)
    anchor_from_target_vox = (
        np.linalg.inv(anchor.world_from_voxel) @ anchor_from_target @ target.world_from_voxel
    )
    missing = _missing_edges(anchor, anchor_from_target[:3, :3] @ target.world_from_voxel[:3, :3])
    steps = _quadrature(np.linalg.inv(anchor.world_from_voxel[:3, :3]) @ missing)
    centres = indices @ anchor_from_target_vox[:3, :3].T + anchor_from_target_vox[:3, 3]
    design = np.zeros((len(indices), len(knots)))
    rows = np.arange(len(indices))
    for step in steps:
        values = ndimage.map_coordinates(anchor.data, (centres + step).T, order=1, mode="nearest")
        position = np.interp(values, knots, np.arange(len(knots)))
        lower = np.minimum(position.astype(int), len(knots) - 2) if len(knots) > 1 else np.zeros_like(rows)
        np.add.at(design, (rows, lower), 1 - (position - lower))
        if len(knots) > 1:
            np.add.at(design, (rows, lower + 1), position - lower)
    design /= len(steps)
    mean = acquired.mean()
    # einsum without BLAS: the order of its sums does not depend on the number of threads.
    gram = np.einsum("ni,nj->ij", design, design)
    bend = np.diff(np.eye(len(knots)), 2, axis=0)
    penalty = _BEND_PENALTY * np.trace(gram) * (bend.T @ bend + 1e-3 * np.eye(len(knots)))
    weights = np.linalg.solve(gram + penalty, np.einsum("ni,n->i", design, acquired - mean))
    residual = acquired - mean - np.einsum("ni,i->n", design, weights)
    spread = float(np.var(acquired))
    explained = 1 - float(np.var(residual)) / spread if spread > 0 else 0.0
    return ContrastMap(knots, weights + mean, explained)


def _missing_edges(anchor: Volume, target_edges: Array) -> Array:
    """Edges of the box that, together with an anchor voxel's own extent, is as wide as a target voxel."""
    lengths_mm = np.linalg.norm(target_edges, axis=0)
    anchor_mm = float(voxel_sizes_mm(anchor.world_from_voxel).mean())
    return target_edges * np.sqrt(np.maximum(0, 1 - (anchor_mm / lengths_mm) ** 2))


def _quadrature(edges_vox: Array) -> Array:
    """(n, 3) offsets, in anchor voxels, of the midpoints that average over a box."""
    counts = np.maximum(1, np.round(np.linalg.norm(edges_vox, axis=0)).astype(int))
    fractions = [(np.arange(n) + 0.5) / n - 0.5 for n in counts]
    return np.stack(np.meshgrid(*fractions, indexing="ij"), axis=-1).reshape(-1, 3) @ edges_vox.T
