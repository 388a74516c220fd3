"""Means, slopes and contrasts around each cell of a lattice, of the cells that count."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlasgs_bids.core.acquisition import along_axis

STEEP_MM = 1.0
"""σ over which squared slopes are averaged."""
_WINDOW_MM = 2.5
"""σ of the window in which one image is explained by another."""
_CONTRAST_MM = 3.0
"""σ of the window whose standard deviation is the local contrast."""

Image = Float[Tensor, "X Y Z"]


def gaussian_kernel(n: int, sigma: float, like: Tensor) -> Tensor:
    """(n, n): rows weigh the cells around one by a Gaussian, σ in cells; the largest sums to 1."""
    line = torch.arange(n, device=like.device, dtype=like.dtype)
    kernel = torch.exp(-0.5 * ((line[:, None] - line) / max(sigma, 1e-3)) ** 2)
    return kernel / kernel.sum(1).max()


class LocalMeans:
    """Over the cells of a lattice that are inside."""

    def __init__(
        self, cell_mm: tuple[float, float, float], slice_axis: int, inside: Bool[Tensor, "X Y Z"]
    ) -> None:
        self._cell_mm, self._slice_axis, self._inside = cell_mm, slice_axis, inside
        self._shares: dict[float, Image] = {}

    def _smoothed(self, image: Image, sigma_mm: float) -> Image:
        for axis, size in enumerate(self._cell_mm):
            image = along_axis(gaussian_kernel(image.shape[axis], sigma_mm / size, image), image, axis)
        return image

    def mean(self, image: Image, sigma_mm: float) -> Image:
        """Weighted by a Gaussian, of the cells inside."""
        if sigma_mm not in self._shares:
            share = self._smoothed(self._inside.to(image), sigma_mm)
            self._shares[sigma_mm] = share.clamp_min(1e-3)
        return self._smoothed(image * self._inside, sigma_mm) / self._shares[sigma_mm]

    def steepness(self, image: Image) -> Image:
        """Mean square slope along the slice axis."""
        (slope,) = torch.gradient(image, dim=self._slice_axis)
        return self.mean(slope.square(), STEEP_MM)

    def explained(self, image: Image, guide: Image) -> Image:
        """The part that is linear in the guide around each cell."""
        of_image, of_guide = self.mean(image, _WINDOW_MM), self.mean(guide, _WINDOW_MM)
        covariance = self.mean(image * guide, _WINDOW_MM) - of_image * of_guide
        variance = (self.mean(guide.square(), _WINDOW_MM) - of_guide.square()).clamp_min(0)
        least = max(1e-3 * float(guide[self._inside].square().mean()), 1e-12)
        return of_image + covariance / (variance + least) * (guide - of_guide)

    def contrast(self, image: Image, sigma_mm: float = _CONTRAST_MM) -> Image:
        """Standard deviation around each cell."""
        mean, square = self.mean(image, sigma_mm), self.mean(image.square(), sigma_mm)
        return (square - mean.square()).clamp_min(0).sqrt()

    def relative(self, image: Image) -> Image:
        """Over its mean inside."""
        return image / image[self._inside].mean().clamp_min(1e-20)

    def shared(self, patterns: Sequence[Image], shares: Sequence[float]) -> Image:
        """Sum of the patterns, each by its share; 1 on average inside."""
        total = torch.zeros_like(patterns[0])
        for pattern, share in zip(patterns, shares, strict=True):
            total += share * self.relative(pattern)
        return total
