"""The anchor at coarser scales, with Gaussians and a graph at each: what a target is first held against."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from atlasgs_bids.core.gaussians import Gaussians, world_points
from atlasgs_bids.core.priors.graph import GraphLaplacian, anchor_features
from atlasgs_bids.core.priors.quadratic import QuadraticPrior
from atlasgs_bids.core.rigid import RigidFrame
from atlasgs_bids.core.scaffold import lattice_gaussians
from atlasgs_bids.imaging.registration.register import foreground_points
from atlasgs_bids.imaging.structure import edge_ellipsoids
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.settings import RestorationSettings

_FINE_MM = 2.0
_MOST_GAUSSIANS = 200_000
_SIGMA_SPACINGS = 0.65
"""Of the Gaussians: narrower ones hold a target to their own grid by up to 0.1 mm."""


@dataclass(frozen=True)
class Guide:
    """The anchor at one scale, a Gaussian for each of its voxels, and the graph between them."""

    anchor: Anchor
    gaussians: Gaussians
    prior: QuadraticPrior


class Guides:
    """The anchor at the scales of the calibration, made when they are first asked for."""

    def __init__(self, anchor: Anchor) -> None:
        self.anchor = anchor
        self._made: dict[tuple[int, ...], Guide] = {}

    @property
    def fine_mm(self) -> float:
        """The finest scale at which positions are refined: that of as many Gaussians as take seconds."""
        voxel_mm3 = abs(float(np.linalg.det(self.anchor.volume.world_from_voxel[:3, :3])))
        return max(_FINE_MM, (self.anchor.support.sum() * voxel_mm3 / _MOST_GAUSSIANS) ** (1 / 3))

    @cached_property
    def frame(self) -> RigidFrame:
        """About the centre of the anchor's foreground."""
        return RigidFrame.of(torch.from_numpy(self.points_mm))

    @cached_property
    def points_mm(self) -> npt.NDArray[np.float64]:
        """(n, 3) points all over the anchor's foreground, world."""
        return foreground_points(self.anchor.volume, self.anchor.foreground)

    def at(self, size_mm: float, config: RestorationSettings) -> Guide:
        """Gaussians on a lattice of about ``size_mm``, and the graph between them."""
        anchor = self.anchor.corrected.averaged(size_mm)
        shape = anchor.volume.data.shape
        if shape not in self._made:
            support = torch.from_numpy(anchor.support).to(config.device)
            world_from_voxel = torch.from_numpy(anchor.volume.world_from_voxel)
            gaussians = lattice_gaussians(
                support, world_from_voxel, int(anchor.support.sum()), _SIGMA_SPACINGS
            )
            self._made[shape] = Guide(anchor, gaussians, graph_of(anchor, gaussians, config))
        return self._made[shape]


def means_in_voxels(gaussians: Gaussians, anchor: Anchor) -> npt.NDArray[np.float32]:
    """(n, 3) means of Gaussians in the anchor's voxels."""
    voxel_from_world = torch.from_numpy(np.linalg.inv(anchor.volume.world_from_voxel)).float()
    return world_points(gaussians.means_mm.cpu(), voxel_from_world).numpy()


def graph_of(anchor: Anchor, gaussians: Gaussians, config: RestorationSettings) -> GraphLaplacian:
    """The graph along the edges of an anchor without bias field, weighted by likeness in it."""
    settings, device = config.core.graph, gaussians.means_mm.device
    means_vox = means_in_voxels(gaussians, anchor)
    amplitude, local_mean = anchor.sampled(means_vox)
    features = anchor_features(
        torch.from_numpy(amplitude), torch.from_numpy(local_mean), anchor.scale, settings
    ).to(device)
    ellipsoids = edge_ellipsoids(anchor.volume, settings.edge_slope * anchor.scale, means_vox)
    return GraphLaplacian(
        gaussians, features, settings, config.core.chunk_elements, torch.from_numpy(ellipsoids).to(device)
    )
