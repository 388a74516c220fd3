"""Anisotropic 3-D Gaussians and their projection to a voxel grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

CUTOFF = 3.0
"""Mahalanobis distance, in σ, beyond which a Gaussian has no weight."""
SCALE_FLOOR = 1e-4
"""Scales below it count as it: a degenerate Gaussian has finite weights and gradients."""


@dataclass(frozen=True)
class Gaussians:
    """N Gaussians in the anchor's world (RAS, mm), with the anchor's amplitude."""

    means_mm: Float[Tensor, "n 3"]
    scales_mm: Float[Tensor, "n 3"]
    quaternions: Float[Tensor, "n 4"]
    """(w, x, y, z); normalised where they are used."""
    amplitudes: Float[Tensor, " n"]

    def __len__(self) -> int:
        return self.means_mm.shape[0]

    def to(self, device: torch.device | str) -> "Gaussians":
        """The same Gaussians on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class ProjectedGaussians:
    """Gaussians in the index coordinates of one grid."""

    means_vox: Float[Tensor, "n 3"]
    precisions_vox: Float[Tensor, "n 6"]
    """Σ⁻¹ in voxel⁻², packed as xx, xy, xz, yy, yz, zz."""
    half_extents_vox: Float[Tensor, "n 3"]
    """Half sides of the axis-aligned box that holds everything inside the cut-off."""

    def __len__(self) -> int:
        return self.means_vox.shape[0]


def rotations(quaternions: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrix of each quaternion (w, x, y, z), normalised first.

    >>> rotations(torch.tensor([[2.0, 0.0, 0.0, 0.0]])).tolist()
    [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]
    """
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=1).unbind(1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, dim=1).view(-1, 3, 3)


def project(
    means_mm: Float[Tensor, "n 3"],
    scales_mm: Float[Tensor, "n 3"],
    quaternions: Float[Tensor, "n 4"],
    voxel_from_world: Float[Tensor, "4 4"],
) -> ProjectedGaussians:
    """Means, precisions and extents in a grid's index coordinates; any affine, differentiable.

    With M the linear part of ``voxel_from_world``, Σ_vox = M R diag(s²) Rᵀ Mᵀ (Kerbl 2023, eq. 6).
    """
    linear = voxel_from_world[:3, :3]
    scales_mm = scales_mm.clamp_min(SCALE_FLOOR)
    rotation = rotations(quaternions)
    means_vox = means_mm @ linear.T + voxel_from_world[:3, 3]
    # Columns of the factors: Σ = F Fᵀ and Σ⁻¹ = Gᵀ G, without a matrix inverse per Gaussian.
    factor = (linear @ rotation) * scales_mm[:, None, :]
    inverse_factor = rotation.transpose(1, 2) @ torch.linalg.inv(linear) / scales_mm[:, :, None]
    precision = inverse_factor.transpose(1, 2) @ inverse_factor
    upper = torch.stack([precision[:, i, j] for i in range(3) for j in range(i, 3)], dim=1)
    return ProjectedGaussians(means_vox, upper, CUTOFF * (factor * factor).sum(2).sqrt())


def sample_positions(
    support: Float[Tensor, "x y z"] | Tensor,
    weights: Float[Tensor, "x y z"],
    n_gaussians: int,
    generator: torch.Generator,
) -> Float[Tensor, "n 3"]:
    """Voxel indices drawn from ``support`` without replacement, with probability by ``weights`` (> 0).

    Where more Gaussians than voxels are asked for, every voxel is taken once and the rest is drawn again
    with a jitter of up to half a voxel. The generator lives on the CPU, so any device draws the same.
    """
    voxels = support.nonzero().cpu()
    chosen_weights = weights.cpu()[tuple(voxels.T)].double()
    parts = []
    remaining = n_gaussians
    jitter = 0.0
    while remaining > 0:
        # The largest keys of log(u)/w are a weighted sample without replacement (Efraimidis 2006).
        uniform = torch.rand(len(voxels), generator=generator, dtype=torch.float64)
        keys = uniform.clamp_min(1e-300).log() / chosen_weights
        chosen = torch.topk(keys, min(remaining, len(voxels))).indices.sort().values
        shift = (torch.rand(len(chosen), 3, generator=generator) - 0.5) * jitter
        parts.append(voxels[chosen].float() + shift)
        remaining -= len(chosen)
        jitter = 1.0
    return torch.cat(parts).to(weights.device)


def world_points(
    points_vox: Float[Tensor, "n 3"], world_from_voxel: Float[Tensor, "4 4"]
) -> Float[Tensor, "n 3"]:
    """Points in mm from index coordinates.

    >>> world_points(torch.ones(1, 3), torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))).tolist()
    [[2.0, 2.0, 2.0]]
    """
    return points_vox @ world_from_voxel[:3, :3].T + world_from_voxel[:3, 3]


def voxel_size_mm(world_from_voxel: Float[Tensor, "4 4"]) -> float:
    """Smallest voxel side, mm."""
    return math.sqrt(float((world_from_voxel[:3, :3] ** 2).sum(0).min()))


def joined(parts: Sequence[Gaussians]) -> Gaussians:
    """Gaussians one set after the other."""
    names = vars(parts[0])
    return Gaussians(**{name: torch.cat([vars(part)[name] for part in parts]) for name in names})
