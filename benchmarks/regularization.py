"""How λ and the noise are found from the slices: marginal likelihood, GCV, SURE and held-out slices, compared.

    python benchmarks/regularization.py --scans DIR [--profile box]

DIR/stroke holds T1.nii.gz, T2.nii.gz and FLAIR.nii.gz on one isotropic grid (benchmarks/real.py). A column
of the head is cut out, thick slices are simulated, white noise is added in percent of the 99th percentile.
Gaussians lie on the voxels of the support (σ = 0.6 voxel), the headers are true, and so is the profile
unless ``box`` is asked for: what is compared is the choice of λ alone. The oracle has the highest PSNR.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.metrics import noise_sd, psnr_db
from atlasgs_bids.core.objective import Objective
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.imaging.profile import SliceProfile
from atlasgs_bids.imaging.slices import SliceGeometry
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import Anchor, anchor_of
from atlasgs_bids.restoration.observation import observe
from atlasgs_bids.restoration.scaffold import graph_prior
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import StackInput
from atlasgs_bids.study.simulation.degrade import simulate_thick_slices, true_slice_profile

GRID = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)


@dataclass(frozen=True)
class Case:
    """A column of a head in thick slices, and what its voxels are in truth."""

    name: str
    truth: np.ndarray
    mask: np.ndarray
    clean: LatticeObservation
    """Without noise."""
    objective: Objective
    render: SplatOperator
    unit: float
    """99th percentile of the truth: the noise is in percent of it."""


def make_case(stroke_dir: Path, target: str, factor: int, profile: str, side: int) -> Case:
    t1 = load_volume(stroke_dir / "T1.nii.gz")
    middle = [(n - side) // 2 for n in t1.data.shape[:2]]
    column = tuple(slice(first, first + side) for first in middle)
    image = np.ascontiguousarray(load_volume(stroke_dir / f"{target}.nii.gz").data[column])
    anchor = anchor_of(Volume(np.ascontiguousarray(t1.data[column]), np.eye(4)))
    slices, affine = simulate_thick_slices(image, np.eye(4), 2, factor)
    settings = RestorationSettings(device="cpu")
    if profile == "true":
        offsets, density = true_slice_profile(factor, 1.0)
        cumulative = np.concatenate([[0], np.cumsum(np.diff(offsets) * (density[1:] + density[:-1]) / 2)])
        settings = replace(settings, slice_profile=SliceProfile(offsets, cumulative / cumulative[-1]))
    gaussians = lattice_gaussians(anchor)
    geometry = SliceGeometry(2, factor, factor, "SliceThickness", (1, 1), (1, 1), ())
    stack = StackInput(target, geometry)
    clean = observe(stack, Volume(slices, affine), np.eye(4), anchor, gaussians, settings)
    objective = Objective((clean,), graph_prior(anchor, gaussians, settings), 1.0)
    render = SplatOperator(gaussians, image.shape, torch.eye(4, dtype=torch.float64))
    mask = anchor.volume.data > 0
    mask[..., slices.shape[2] * factor :] = False
    unit = float(np.percentile(image[mask], 99))
    return Case(f"{target} x{factor}", image, mask, clean, objective, render, unit)


def lattice_gaussians(anchor: Anchor) -> Gaussians:
    """One on every voxel of the support, σ = 0.6 voxel."""
    means = torch.from_numpy(np.argwhere(anchor.support)).float()
    turned = torch.zeros(len(means), 4)
    turned[:, 0] = 1
    amplitudes = torch.from_numpy(anchor.volume.data[anchor.support])
    return Gaussians(means, torch.full_like(means, 0.6), turned, amplitudes)
