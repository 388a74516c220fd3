"""3-D Gaussians cut by planes: the 2-D Gaussians in each plane, and their front-to-back compositing.

exp(−½ dᵀ Σ⁻¹ d) in the plane w = z is the marginal exp(−½ (z − μ_w)²/Σ_ww) times a 2-D Gaussian with the
conditional mean and covariance of (u, v) given w = z; nothing is approximated.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from atlasgs_bids.study.methods.published.compositing_kernels import composite, composite_gradients

CUTOFF = 3.33
"""σ from the plane, or from a pixel, beyond which no Gaussian is opaque enough to count (MIN_ALPHA)."""
MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE = 0.999, 1 / 255, 1e-4
"""What gsplat's kernel caps, skips and ends at."""


@dataclass(frozen=True)
class PlaneGaussians:
    """Pairs of a plane and a Gaussian that meets it, sorted by plane."""

    planes: Int[Tensor, " pairs"]
    """Position of the plane in the list that was asked for."""
    owners: Int[Tensor, " pairs"]
    """Index of the 3-D Gaussian."""
    means: Float[Tensor, "pairs 2"]
    """Index coordinates (u, v) in the plane."""
    conics: Float[Tensor, "pairs 3"]
    """Inverse of the conditional covariance: uu, uv, vv."""
    marginals: Float[Tensor, " pairs"]
    """Weight of the Gaussian in the plane, 0 to 1."""
    depths: Float[Tensor, " pairs"]
    """Distance of its centre from the plane, σ: the nearest is in front."""
    radii: Int[Tensor, "pairs 2"]
    """Pixels that it reaches along u and v."""


class Rasterizer(Protocol):
    """Features composited in every plane."""

    def __call__(
        self,
        cut: PlaneGaussians,
        features: Float[Tensor, "pairs k"],
        opacities: Float[Tensor, " pairs"],
        n_planes: int,
        shape: tuple[int, int],
    ) -> Float[Tensor, "planes u v k"]: ...


def meeting_pairs(
    means: Float[Tensor, "n 3"], covariances: Float[Tensor, "n 3 3"], positions: Float[Tensor, " planes"]
) -> tuple[Tensor, Tensor]:
    """Planes and owners of all pairs within the cut-off, sorted by plane; w is the last coordinate."""
    with torch.no_grad():
        reach = CUTOFF * covariances[:, 2, 2].sqrt()
        near = (positions[:, None] - means[None, :, 2]).abs() < reach
        planes, owners = near.nonzero(as_tuple=True)
    return planes, owners


def cut_by_planes(
    means: Float[Tensor, "n 3"],
    covariances: Float[Tensor, "n 3 3"],
    positions: Float[Tensor, " planes"],
    pairs: tuple[Tensor, Tensor],
) -> PlaneGaussians:
    """The conditional 2-D Gaussians of the pairs; differentiable in means and covariances."""
    planes, owners = pairs
    # index_select: the gradient of indexing with [] sorts the indices first, which costs more than all else.
    own, sigma = means.index_select(0, owners), covariances.index_select(0, owners)
    offset = positions[planes] - own[:, 2]
    variance = sigma[:, 2, 2]
    slope = sigma[:, :2, 2] / variance[:, None]
    conditional = sigma[:, :2, :2] - slope[:, :, None] * sigma[:, None, 2, :2]
    a, b, c = conditional[:, 0, 0], conditional[:, 0, 1], conditional[:, 1, 1]
    determinant = (a * c - b * b).clamp_min(1e-8)
    with torch.no_grad():
        radii = (CUTOFF * torch.stack([a, c], dim=1).clamp_min(0).sqrt()).ceil().int()
        depths = offset.abs() / variance.sqrt()
    return PlaneGaussians(
        planes=planes,
        owners=owners,
        means=own[:, :2] + slope * offset[:, None],
        conics=torch.stack([c, -b, a], dim=1) / determinant[:, None],
        marginals=torch.exp(-0.5 * offset**2 / variance),
        depths=depths,
        radii=radii,
    )


def composite_reference(
    cut: PlaneGaussians,
    features: Float[Tensor, "pairs k"],
    opacities: Float[Tensor, " pairs"],
    n_planes: int,
    shape: tuple[int, int],
) -> Float[Tensor, "planes u v k"]:
    """Σ fᵢ αᵢ Π_{j<i} (1 − αⱼ), written out in torch: slow, exact, for any device."""
    u = torch.arange(shape[0], device=features.device, dtype=features.dtype)
    v = torch.arange(shape[1], device=features.device, dtype=features.dtype)
    images = []
    for plane in range(n_planes):
        members = (cut.planes == plane).nonzero()[:, 0]
        members = members[torch.sort(cut.depths[members], stable=True).indices]
        du = u[None, :, None] - cut.means[members, 0, None, None]
        dv = v[None, None, :] - cut.means[members, 1, None, None]
        uu, uv, vv = (cut.conics[members, i, None, None] for i in range(3))
        weights = torch.exp(-0.5 * (uu * du * du + vv * dv * dv) - uv * du * dv)
        alphas = (opacities[members, None, None] * weights).clamp_max(MAX_ALPHA)
        alphas = torch.where(alphas < MIN_ALPHA, 0.0, alphas)
        behind = torch.cumprod(1 - alphas, dim=0)
        alphas = torch.where(behind <= MIN_TRANSMITTANCE, 0.0, alphas)
        before = torch.cat([torch.ones_like(alphas[:1]), torch.cumprod(1 - alphas, dim=0)[:-1]])
        images.append(torch.einsum("nuv,nk->uvk", alphas * before, features[members]))
    return torch.stack(images)


def composite_numba(
    cut: PlaneGaussians,
    features: Float[Tensor, "pairs k"],
    opacities: Float[Tensor, " pairs"],
    n_planes: int,
    shape: tuple[int, int],
) -> Float[Tensor, "planes u v k"]:
    """The same on the threads of a CPU."""
    order = np.lexsort((cut.depths.detach().numpy(), cut.planes.numpy()))
    starts = np.searchsorted(cut.planes.numpy(), np.arange(n_planes + 1))
    index = torch.from_numpy(order)
    picked = [x.index_select(0, index) for x in (cut.means, cut.conics, opacities, features)]
    drawn: Tensor = _Composite.apply(starts, cut.radii.numpy()[order], shape, *picked)
    return drawn


class _Composite(torch.autograd.Function):
    """The kernels, for autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        starts: np.ndarray,
        radii: np.ndarray,
        shape: tuple[int, int],
        means: Tensor,
        conics: Tensor,
        opacities: Tensor,
        features: Tensor,
    ) -> Tensor:
        arrays = [x.detach().float().contiguous().numpy() for x in (means, conics, opacities, features)]
        m, c, o, f = arrays
        images = composite(starts, m, c, radii, o, f, shape, _LIMITS)
        ctx.stored = (starts, radii, arrays, images)
        return torch.from_numpy(images)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        starts, radii, (m, c, o, f), images = ctx.stored
        above = upstream[0].contiguous().numpy()
        whole = (above * images).sum(axis=-1)
        gradients = composite_gradients(starts, m, c, radii, o, f, above, whole, _LIMITS)
        return (None, None, None, *(torch.from_numpy(g) for g in gradients))


_TILE = 16
"""Pixels along a side of gsplat's."""
_LIMITS = tuple(np.float32(x) for x in (MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE))


def rasterizer_for(device: str) -> Rasterizer:
    """gsplat's on a GPU."""
    return composite_numba if device == "cpu" else composite_gsplat


def composite_gsplat(
    cut: PlaneGaussians,
    features: Float[Tensor, "pairs k"],
    opacities: Float[Tensor, " pairs"],
    n_planes: int,
    shape: tuple[int, int],
) -> Float[Tensor, "planes u v k"]:
    """The same by gsplat's CUDA kernel; its pixel centres lie at halves, its image has rows first."""
    from gsplat import isect_offset_encode, isect_tiles, rasterize_to_pixels  # noqa: PLC0415 - 5 s

    height, width = shape
    n_down, n_across = -(-height // _TILE), -(-width // _TILE)
    # Rows are u: gsplat's x is v and its y is u.
    means = cut.means.flip(1) + 0.5
    conics = cut.conics.flip(1)
    _, isect_ids, flatten_ids = isect_tiles(
        means.detach(), cut.radii.flip(1).contiguous(), cut.depths, _TILE, n_across, n_down,
        packed=True, n_images=n_planes, image_ids=cut.planes, gaussian_ids=cut.owners,
    )  # fmt: skip
    offsets = isect_offset_encode(isect_ids, n_planes, n_across, n_down)
    rendered, _ = rasterize_to_pixels(
        means, conics, features, opacities, width, height, _TILE,
        offsets.view(n_planes, n_down, n_across), flatten_ids, packed=True,
    )  # fmt: skip
    return rendered
