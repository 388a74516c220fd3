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


def quaternions_of(rotations: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 4"]:
    """Unit quaternion (w, x, y, z) of each rotation matrix, which ``rotations`` gives back.

    >>> quaternions_of(torch.eye(3)[None]).tolist()
    [[1.0, 0.0, 0.0, 0.0]]
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(1) for row in rotations.unbind(1))
    # 4 q qᵀ; its row with the largest diagonal is far from 0 (Shepperd 1978).
    entries = (
        1 + xx + yy + zz, zy - yz, xz - zx, yx - xy,
        zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx,
        xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy,
        yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz,
    )  # fmt: skip
    products = torch.stack(entries, dim=1).view(-1, 4, 4)
    largest = products.diagonal(dim1=1, dim2=2).argmax(1)
    rows = products[torch.arange(len(products), device=products.device), largest]
    return torch.nn.functional.normalize(rows, dim=1)


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
