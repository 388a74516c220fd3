"""A scaffold and a series of the phantom, in position, without the search for either."""

import numpy as np
import torch
from scipy import ndimage

from atlasgs_bids.core.scaffold import fit_scaffold
from atlasgs_bids.imaging.foreground import foreground_mask
from atlasgs_bids.imaging.registration.register import Registration
from atlasgs_bids.imaging.series import Series
from atlasgs_bids.imaging.slices import slice_geometry
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.scaffold import SessionScaffold, graph_prior
from atlasgs_bids.restoration.stack import PlacedStack, StackInput
from tests.imaging.phantom import T1W, head


def brain_scaffold(size_mm, settings):
    """Of the phantom's brain."""
    volume = head(T1W, size_mm, with_scalp=False)
    foreground = foreground_mask(volume)
    support = ndimage.binary_dilation(foreground, iterations=2)
    anchor = Anchor(volume, foreground, support, exterior_is_empty=True, is_brain=True)
    world = torch.from_numpy(volume.world_from_voxel)
    fitted = fit_scaffold(torch.from_numpy(volume.data), torch.from_numpy(support), world, settings.core)
    prior = graph_prior(anchor, fitted.gaussians, settings)
    return SessionScaffold(anchor, fitted.gaussians, fitted.anchor_psnr_db, 0.0, prior, len(fitted.gaussians))


def placed_series(acquired, kinds, thickness_mm):
    """The series, and its reference where it was acquired: the head did not move."""
    series = Series(acquired.data, 1.0, 0.0, acquired.world_from_voxel, 1.0, None)
    reference = series.mean(kinds.reference)
    geometry = slice_geometry(reference.data.shape, acquired.world_from_voxel, {}, thickness_mm)
    registration = Registration(np.eye(4), 0.0, 0.0, 0.0, "rigid", None, None)
    return series, PlacedStack(StackInput("series", geometry), reference, registration)
