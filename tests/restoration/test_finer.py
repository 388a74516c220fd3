"""Targets whose pixels are finer than the T1w's voxels: their own Gaussians, residuals, and grids."""

import logging
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.core.settings import LearnedSettings
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.core.splat.render import render
from atlasgs_bids.imaging.profile import profile_of
from atlasgs_bids.imaging.registration.register import Registration
from atlasgs_bids.imaging.slices import SliceGeometry
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.finer import finer_scaffold
from atlasgs_bids.restoration.observation import observe_placed
from atlasgs_bids.restoration.result import rendered_result, rendered_volume
from atlasgs_bids.restoration.scaffold import scaffold_of
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack, StackInput
from atlasgs_bids.restoration.target import fit_target
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.simulation.degrade import true_slice_profile
from atlasgs_bids.study.simulation.phantom import make_phantom
from tests.helpers import assert_adjoint

SLICE_MM = 6
SHAPE = 32, 32, 8 * SLICE_MM
QUIET = Progress.quiet()
PROFILE = profile_of(*true_slice_profile(SLICE_MM, 0.05))
SETTINGS = RestorationSettings(
    "cpu", registration="header", prior="graph", slice_profile=PROFILE, estimate_uncertainty=False
)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(0, "FLAIR", SHAPE)


@pytest.fixture(scope="module")
def scaffold(phantom):
    """Of a T1w in voxels of 2 mm."""
    volume = Volume(phantom.anchor, np.eye(4)).averaged((2, 2, 2))
    everywhere = np.ones(volume.data.shape, bool)
    anchor = Anchor(volume, everywhere, everywhere, exterior_is_empty=False, is_brain=True)
    return scaffold_of(anchor, SETTINGS, QUIET)


def stack_of(truth, pixel_mm, moved=None, axis=2):
    """Slices of a volume with voxels of 1 mm, noise of 1 %, and the noise."""
    voxel = [pixel_mm] * 3
    voxel[axis] = SLICE_MM
    slices = Volume(truth, np.eye(4)).averaged(tuple(voxel))
    noise_sd = 0.01 * float(np.percentile(truth, 99))
    noise = noise_sd * np.random.default_rng(1).standard_normal(slices.data.shape)
    size = float(pixel_mm), float(pixel_mm)
    geometry = SliceGeometry(axis, SLICE_MM, SLICE_MM, "stated", size, size, ())
    target_from_anchor = np.eye(4) if moved is None else moved
    return PlacedStack(
        StackInput("FLAIR", geometry),
        replace(slices, data=(slices.data + noise).astype(np.float32)),
        Registration(target_from_anchor, 0.0, 0.0, 0.0, "header", None, None),
    ), noise_sd


def with_at_most(n):
    appearance = replace(SETTINGS.core.appearance, own_gaussians=n)
    return replace(SETTINGS, core=replace(SETTINGS.core, appearance=appearance))


def turned():
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", [9, -6, 14], degrees=True).as_matrix()
    motion[:3, 3] = 1.3, -0.4, 0.7
    return motion


@pytest.fixture(scope="module")
def results(phantom, scaffold):
    """With the session's Gaussians alone, and with the target's own; and the noise."""
    stack, noise_sd = stack_of(phantom.truth, 1)
    fits = [fit_target([stack], scaffold, settings, QUIET) for settings in (with_at_most(0), SETTINGS)]
    native = replace(SETTINGS, resolution="native")
    return fits, [rendered_result(own.fit, own.scaffold, native) for own in fits], noise_sd


def test_what_is_left_of_fine_pixels_is_noise(phantom, results):
    _, (before, now), noise_sd = results
    assert before.stacks[0].noise_sd > 2 * noise_sd
    assert 0.8 * noise_sd < now.stacks[0].noise_sd < 1.3 * noise_sd
    assert now.prior_disagrees < 0.005
    inner = (slice(3, -3), slice(3, -3), slice(2 * SLICE_MM, -2 * SLICE_MM))
    gained = [
        psnr_db(phantom.truth[inner], own.sr[inner], np.ones_like(own.sr[inner]) > 0) for own in (before, now)
    ]
    assert gained[1] > gained[0] + 0.2


def test_the_amplitudes_are_the_least_of_their_objective(results):
    (_, now), _, _ = results
    appearance = now.fit.appearance
    solved = appearance.objective.solve(None, 1e-6, 2000).value
    assert float((solved - appearance.amplitudes).norm() / solved.norm()) < 3e-3


def test_a_target_has_its_own_gaussians_and_native_is_isotropic_at_its_pixels(results, scaffold):
    (before, now), (coarse, native), _ = results
    assert before.scaffold is scaffold
    assert now.scaffold.n_shared == 0
    # Four times as many: as fine as the pixels in plane, as the T1w along the slices.
    assert len(now.scaffold.gaussians) == pytest.approx(4 * len(scaffold.gaussians), rel=0.1)
    np.testing.assert_allclose(now.scaffold.cell_mm, np.diag([1.0, 1.0, 2.0]), atol=1e-9)
    for own in (coarse, native):
        np.testing.assert_allclose(voxel_sizes_mm(own.grid.world_from_voxel), 1.0)
        assert own.grid.shape == SHAPE


def test_a_larger_voxel_is_the_mean_over_it(results):
    (_, now), (_, native), _ = results
    # Along the slices the lattice is as fine as a voxel of 2 mm: its centre stands for it.
    world_from_cell = np.diag([1.0, 1.0, 2.0, 1.0])
    world_from_cell[2, 3] = 0.5
    drawn = [
        rendered_volume(
            now.fit.appearance.amplitudes, grid, np.ones(grid.shape, bool), now.scaffold, SETTINGS, floor=None
        )
        for grid in (Grid((32, 32, 24), world_from_cell), native.anchor.volume.grid)
    ]
    mean = Volume(drawn[0], world_from_cell).averaged((2, 2, 1))
    np.testing.assert_allclose(mean.world_from_voxel, native.anchor.volume.world_from_voxel)
    np.testing.assert_allclose(mean.data, drawn[1], rtol=1e-4, atol=1e-2)
    points = rendered_volume(
        now.fit.appearance.amplitudes, native.anchor.volume.grid, np.ones((16, 16, 24), bool),
        replace(now.scaffold, own_cell_mm=None), SETTINGS, floor=None,
    )  # fmt: skip
    assert np.abs(points - drawn[1]).max() > 1


@pytest.mark.parametrize("pixel_mm", [2, 4])
def test_a_target_that_is_not_finer_is_left_as_it_was(phantom, scaffold, pixel_mm):
    stack, _ = stack_of(phantom.truth, pixel_mm)
    assert finer_scaffold([stack], scaffold, SETTINGS, QUIET) is None
    fits = [fit_target([stack], scaffold, settings, QUIET) for settings in (SETTINGS, with_at_most(0))]
    assert fits[0].scaffold is scaffold
    assert torch.equal(*(own.fit.appearance.amplitudes for own in fits))


def test_thin_slices_alone_are_not_finer(phantom, scaffold):
    """1.5 voxels of the T1w from slice to slice, which fall into cells of 0.75."""
    slices = Volume(phantom.truth, np.eye(4)).averaged((2, 2, 3))
    geometry = SliceGeometry(2, 3.0, 3.0, "stated", (2.0, 2.0), (2.0, 2.0), ())
    known = Registration(np.eye(4), 0.0, 0.0, 0.0, "header", None, None)
    stack = PlacedStack(StackInput("FLAIR", geometry), slices, known)
    assert finer_scaffold([stack], scaffold, SETTINGS, QUIET) is None


def test_the_lattice_lies_on_the_pixels_of_a_turned_stack_and_the_operator_has_its_adjoint(phantom, scaffold):
    stack, _ = stack_of(phantom.truth, 1, turned())
    finer = finer_scaffold([stack], scaffold, SETTINGS, QUIET)
    lattice = finer.lattice
    anchor_from_native = np.linalg.inv(turned()) @ stack.acquired.world_from_voxel
    native_from_cells = np.linalg.inv(anchor_from_native) @ lattice.world_from_voxel
    assert np.abs(native_from_cells[:2, 3] - native_from_cells[:2, 3].round()).max() < 1e-9
    np.testing.assert_allclose(native_from_cells[:3, :3], np.diag([1, 1, 1 / 3]), atol=1e-9)
    observed = observe_placed(stack, scaffold.anchor, finer.scaffold.gaussians, SETTINGS)
    assert float((observed.weights > 0).float().mean()) > 0.5
    own = finer.scaffold.gaussians
    double = Gaussians(*(getattr(own, field.name).double() for field in fields(own)))
    splat = SplatOperator(double, observed.lattice_shape, observed.world_from_lattice)
    assert_adjoint(observed.acquisition @ splat)
    image = torch.randn(len(scaffold.gaussians), generator=torch.Generator().manual_seed(0))
    carried = finer.carried(scaffold.gaussians, image[:, None], 2**22)[:, 0]
    world = torch.from_numpy(lattice.world_from_voxel)
    drawn = [
        render(gaussians, amplitudes, lattice.shape, world, 2**22)[torch.from_numpy(finer.support)]
        for gaussians, amplitudes in ((scaffold.gaussians, image), (finer.scaffold.gaussians, carried))
    ]
    assert float((drawn[0] - drawn[1]).norm() / drawn[0].norm()) < 0.02


def test_planes_across_make_the_lattice_fine_along_every_axis(phantom, scaffold):
    stacks = [stack_of(phantom.truth, 1)[0], stack_of(phantom.truth, 1, axis=0)[0]]
    finer = finer_scaffold(stacks, scaffold, SETTINGS, QUIET)
    np.testing.assert_allclose(np.linalg.norm(finer.scaffold.cell_mm, axis=0), 1.0)


def test_fewer_gaussians_lie_farther_apart_and_too_few_are_none(phantom, scaffold, caplog):
    stack, _ = stack_of(phantom.truth, 1)
    n = 3 * len(scaffold.gaussians)
    finer = finer_scaffold([stack], scaffold, with_at_most(n), QUIET)
    assert 0.8 * n < len(finer.scaffold.gaussians) <= n
    sizes_mm = np.linalg.norm(finer.scaffold.cell_mm, axis=0)
    assert 1.1 < sizes_mm[0] == pytest.approx(sizes_mm[1])
    assert sizes_mm[2] == pytest.approx(2)
    with caplog.at_level(logging.WARNING):
        assert finer_scaffold([stack], scaffold, with_at_most(len(scaffold.gaussians)), QUIET) is None
    assert "left out" in caplog.text


def test_uncertainty_is_that_of_both(phantom, scaffold, results):
    stack, _ = stack_of(phantom.truth, 1)
    known = replace(SETTINGS, estimate_uncertainty=True)
    fit = fit_target([stack], scaffold, known, QUIET)
    result = rendered_result(fit.fit, fit.scaffold, replace(known, resolution="native"))
    inner = (slice(3, -3), slice(3, -3), slice(2 * SLICE_MM, -2 * SLICE_MM))
    error, sd = (result.sr - phantom.truth)[inner], result.sd[inner]
    assert (np.abs(error) < 1.645 * sd).mean() > 0.8
    # Not by being large: a phantom's flat tissues are foretold better than the held-out slices say.
    assert np.sqrt((sd**2).mean()) < 3 * np.sqrt((error**2).mean())


def test_what_a_network_expects_is_drawn_by_the_targets_own_gaussians(phantom, scaffold):
    stack, _ = stack_of(phantom.truth, 1)
    network = LearnedSettings(width=8, n_blocks=1, n_first_steps=20, n_cycles=1, n_cycle_steps=20)
    learned = replace(SETTINGS, prior="learned", core=replace(SETTINGS.core, learned=network))
    fit = fit_target([stack], scaffold, learned, QUIET)
    assert fit.scaffold.n_shared == 0
    assert fit.fit.appearance.trust is not None
    image = rendered_result(fit.fit, fit.scaffold, replace(learned, resolution="native")).sr
    assert np.corrcoef(image[..., 12:-12].ravel(), phantom.truth[..., 12:-12].ravel())[0, 1] > 0.8
