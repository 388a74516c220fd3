"""Stacks of the phantom through observation and fit: gaps, orientations, several stacks of one contrast."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from atlasgs_bids.core.appearance import fit_appearance
from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.core.observation import join
from atlasgs_bids.core.operators import Scaled, SliceRows, StackedOperator
from atlasgs_bids.core.settings import AppearanceSettings, CoreSettings
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.registration.itk_files import TransformStep
from atlasgs_bids.imaging.registration.register import Registration, write_itk_transform
from atlasgs_bids.imaging.slice_motion import AT_REST, shots_of
from atlasgs_bids.imaging.slices import slice_geometry
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import anchor_of
from atlasgs_bids.restoration.observation import observe
from atlasgs_bids.restoration.restore import restore_stacks
from atlasgs_bids.restoration.result import rendered_result
from atlasgs_bids.restoration.scaffold import scaffold_of
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import StackInput, covered, place
from atlasgs_bids.restoration.target import fit_target
from atlasgs_bids.runtime.progress import Progress
from tests.helpers import assert_adjoint
from tests.imaging.phantom import FLAIR, T1W, head, rigid

SIZE_MM = 4
SETTINGS = RestorationSettings(
    device="cpu",
    registration="header",
    slice_profile="box",
    prior="graph",
    estimate_uncertainty=False,  # takes most of a fit's time, and no image depends on it
    core=CoreSettings(
        appearance=AppearanceSettings(regularization=0.03, tolerance=1e-3, n_probes=1),
    ),
)
QUICK = replace(
    SETTINGS,
    core=replace(
        SETTINGS.core, appearance=replace(SETTINGS.core.appearance, tolerance=1e-2, max_iterations=20)
    ),
)
"""Slices that are stacks of their own take longest."""
STRONG = replace(
    SETTINGS,
    core=replace(SETTINGS.core, appearance=replace(SETTINGS.core.appearance, regularization=0.1)),
)
"""The weight that held-out slices choose for the noisy stacks."""
CENTRE = np.array([0.0, -18.0, 8.0])


@pytest.fixture(scope="module")
def scaffold():
    return scaffold_of(anchor_of(head(T1W, SIZE_MM, with_scalp=False)), SETTINGS, Progress.quiet())


@pytest.fixture(scope="module")
def truth():
    return head(FLAIR, SIZE_MM, with_scalp=False)


@pytest.fixture(scope="module")
def placed(scaffold, truth):
    """The stack of ``cut``, placed: by its header, or where a file says that the head was."""

    def cut_and_place(axis, spacing_mm, thickness_mm, transform=None, **others):
        source, acquired = cut(truth, axis, spacing_mm, thickness_mm, **others)
        source = replace(source, transforms=() if transform is None else (TransformStep(transform),))
        return place(source, acquired, scaffold.anchor, SETTINGS, Progress.quiet())

    return cut_and_place


def cut(truth, axis, spacing_mm, thickness_mm, *, target_from_anchor=None, tilt_deg=0.0, gain=1.0, noise=0.0):
    """A stack whose voxels are means over its thickness, less than the spacing where there is a gap."""
    motion = np.eye(4) if target_from_anchor is None else target_from_anchor
    sizes_mm = np.full(3, float(SIZE_MM))
    sizes_mm[axis] = spacing_mm
    shape = np.ceil(np.array(truth.data.shape) * SIZE_MM / sizes_mm).astype(int)
    affine = np.eye(4)
    tilt = Rotation.from_euler("xyz", [tilt_deg, 0, 0.5 * tilt_deg], degrees=True).as_matrix()
    affine[:3, :3] = tilt @ np.diag(sizes_mm)
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((shape - 1) / 2)
    normal = affine[:3, axis] / spacing_mm
    n_steps = 8
    truth_from_native = np.linalg.inv(truth.world_from_voxel) @ np.linalg.inv(motion) @ affine
    total = np.zeros(shape)
    for offset_mm in ((np.arange(n_steps) + 0.5) / n_steps - 0.5) * thickness_mm:
        shifted = np.linalg.inv(truth.world_from_voxel) @ np.linalg.inv(motion)
        origin = truth_from_native[:3, 3] + shifted[:3, :3] @ (offset_mm * normal)
        total += ndimage.affine_transform(
            truth.data, truth_from_native[:3, :3], origin, tuple(shape), order=3
        )
    data = gain * total / n_steps
    data += np.random.default_rng(axis).normal(0, noise, data.shape) if noise else 0
    volume = Volume(data.astype(np.float32), affine)
    geometry = slice_geometry(volume.data.shape, affine, {}, thickness_mm)
    geometry = replace(geometry, axis=axis, spacing_mm=spacing_mm)
    return StackInput(f"axis {axis}", geometry), volume


def fitted(placed, scaffold, settings=SETTINGS):
    return restore_stacks(placed, scaffold, settings, Progress.quiet())


def score(result, truth, scaffold):
    inner = ndimage.binary_erosion(scaffold.anchor.foreground, iterations=1) & result.fov
    return psnr_db(truth.data, result.sr, inner)


def interpolated(stack, truth, scaffold):
    inner = ndimage.binary_erosion(scaffold.anchor.foreground, iterations=1)
    return psnr_db(
        truth.data, resample(stack.acquired, truth.grid, stack.registration.target_from_anchor), inner
    )


@pytest.mark.parametrize(
    ("axis", "gap", "tilt_deg"),
    [(2, 0.0, 0.0), (2, 0.2, 0.0), (2, 0.5, 0.0), (0, 0.2, 0.0), (1, 0.2, 0.0), (2, 0.2, 20.0)],
    ids=["axial", "gap 20 %", "gap 50 %", "sagittal", "coronal", "oblique 20 deg"],
)
def test_any_stack_beats_interpolation(scaffold, truth, placed, axis, gap, tilt_deg):
    stack = placed(axis, 12.0, 12.0 * (1 - gap), tilt_deg=tilt_deg)
    result = fitted([stack], scaffold)
    assert score(result, truth, scaffold) > interpolated(stack, truth, scaffold) + 1.5


def test_a_gap_is_told_from_a_thick_slice(scaffold, truth, placed):
    """Taking slices with a gap of half their distance for slices without one costs accuracy."""
    stack = placed(2, 12.0, 6.0)
    thick = replace(stack.source.geometry, thickness_mm=12.0)
    wrong = replace(stack, source=replace(stack.source, geometry=thick))
    assert (
        score(fitted([stack], scaffold), truth, scaffold)
        > score(fitted([wrong], scaffold), truth, scaffold) + 0.3
    )


def test_orthogonal_stacks_are_better_than_one(scaffold, truth, placed, tmp_path):
    motions = [None, rigid([3, 2, -2], [1, 2, -1], CENTRE), rigid([-2, 1, 3], [2, -1, 1], CENTRE)]
    gains = [1.0, 1.5, 0.7]
    stacks = []
    for axis, motion, gain in zip((2, 0, 1), motions, gains, strict=True):
        transform = None if motion is None else tmp_path / f"{axis}.txt"
        if transform is not None:
            write_itk_transform(transform, Registration(motion, 0.0, 0.0, 0.0, "rigid", None, None))
        stacks.append(placed(axis, 12.0, 12.0, transform, target_from_anchor=motion, gain=gain, noise=gain))
    alone = score(fitted(stacks[:1], scaffold), truth, scaffold)
    together = fitted(stacks, scaffold)
    assert score(together, truth, scaffold) > alone + 1.5
    assert [stack.gain for stack in together.stacks] == pytest.approx(gains, rel=0.03)
    for stack in together.stacks:
        error = (stack.acquired.data - stack.simulated)[stack.weights > 0]
        assert np.sqrt(np.mean(error**2)) < 0.1 * stack.acquired.data.max()


def test_a_noisy_stack_counts_less(scaffold, truth, placed):
    """A stack with twelve times the noise: taken like any other it does harm, by its noise it does none."""
    stacks = [placed(2, 12.0, 12.0, noise=2.0), placed(0, 12.0, 12.0, noise=25.0)]
    alone_db = score(fitted(stacks[:1], scaffold, STRONG), truth, scaffold)
    together = fit_target(stacks, scaffold, STRONG, Progress.quiet())
    weighted_db = score(rendered_result(together.fit, scaffold, STRONG), truth, scaffold)
    alike = [replace(own, noise_sd=1.0) for own in together.observations]
    appearance = fit_appearance(join(alike), scaffold.prior, STRONG.core.appearance)
    equal = rendered_result(replace(together.fit, appearance=appearance), scaffold, STRONG)
    equal_db = score(equal, truth, scaffold)
    assert weighted_db > alone_db - 0.05
    assert weighted_db > equal_db + 0.5


def test_operators_of_several_stacks_are_adjoint():
    first, second = SliceRows((3, 4, 5), 2, 20), SliceRows((6, 2, 5), 1, 30)
    assert_adjoint(first)
    assert_adjoint(second)
    row = torch.zeros(3, 4, 5)
    row[:, :, 1] = 1
    assert first.forward(row).sum(1).squeeze().tolist() == [0, 12, 0, 0, 0]
    several = torch.randn(3, 4, 5, 2)
    each = torch.stack([first.forward(volume) for volume in several.unbind(3)], dim=3)
    torch.testing.assert_close(first.forward(several), each)
    torch.testing.assert_close(first.adjoint(each)[..., 1], first.adjoint(each[..., 1]))
    flat = SliceRows((3, 4, 5), 0, 20)
    assert_adjoint(StackedOperator([flat, Scaled(flat, 0.5)]))
    with pytest.raises(ValueError, match="cannot stack"):
        StackedOperator([first, second])


def test_a_zero_filled_image_is_observed_with_its_point_spread(scaffold, placed):
    """Same slices, acquired at half the matrix along one axis: the operator spreads a point over it."""
    stack = placed(2, 12.0, 12.0)
    wide = replace(stack.source.geometry, acquired_in_plane_mm=(8.0, 4.0))
    spreads = []
    for geometry in (stack.source.geometry, wide):
        source = replace(stack.source, geometry=geometry)
        own = observe(
            source,
            stack.acquired,
            np.eye(4),
            scaffold.anchor,
            scaffold.gaussians,
            stack.profile(SETTINGS),
            SETTINGS,
        )
        point = torch.zeros(own.acquisition.shape_out)
        point[tuple(n // 2 for n in point.shape)] = 1
        response = own.acquisition.forward(own.acquisition.adjoint(point))
        spread = [len(torch.unique((response > 0).nonzero()[:, axis])) for axis in (0, 1)]
        spreads.append(spread)
    assert spreads[0] == [1, 1]
    assert spreads[1][0] > 3
    assert spreads[1][1] == 1


def test_nothing_is_invented_outside_the_slices(scaffold, truth, placed):
    """Half of the head is acquired, with a gap, and a corner of it was not observed."""
    stack = placed(2, 12.0, 6.0)
    n_slices = stack.acquired.data.shape[2]
    half = stack.acquired.data[:, :, : n_slices // 2]
    observed = np.ones(half.shape, bool)
    observed[: half.shape[0] // 3] = False
    partial = replace(stack, acquired=Volume(half, stack.acquired.world_from_voxel, observed))
    result = fitted([partial], scaffold)
    assert np.isfinite(result.sr).all()
    assert (result.sr[~result.fov] == 0).all()
    assert 0.2 < result.coverage < 0.5
    # The last slice ends half its thickness beyond its centre, not half the distance to the next.
    top_mm = (stack.acquired.world_from_voxel @ [0, 0, n_slices // 2 - 1, 1])[2] + 3.0
    z_mm = truth.world_from_voxel[2, 2] * np.arange(truth.data.shape[2]) + truth.world_from_voxel[2, 3]
    reached = covered(stack.source, Volume(half, stack.acquired.world_from_voxel), np.eye(4), truth.grid)
    highest = np.flatnonzero(reached.any((0, 1))).max()
    assert z_mm[highest] <= top_mm < z_mm[highest + 1]
    x = np.flatnonzero(result.fov.any((1, 2)))
    assert len(x) < 0.75 * truth.data.shape[0]


def moving_stack(truth, placed, moved, spacing_mm=12.0):
    """A stack of which some slices have the head elsewhere, and brighter: slice -> (map, gain)."""
    still = placed(2, spacing_mm, spacing_mm)
    data = still.acquired.data.copy()
    for k, (motion, gain) in moved.items():
        _, elsewhere = cut(truth, 2, spacing_mm, spacing_mm, target_from_anchor=motion)
        data[:, :, k] = gain * elsewhere.data[:, :, k]
    data += np.random.default_rng(3).normal(0, 1.0, data.shape).astype(np.float32)
    return replace(still, acquired=Volume(data, still.acquired.world_from_voxel))


def slice_errors_mm(result, moved, scaffold):
    """Mean distance over the head's pixels of each slice between where it was found and where it was."""
    (stack,) = result.stacks
    foreground = scaffold.anchor.foreground
    centre = (scaffold.anchor.volume.world_from_voxel @ [*np.argwhere(foreground).mean(axis=0), 1])[:3]
    errors = {}
    for k, position in enumerate(stack.motion):
        pixels = np.argwhere(stack.weights[:, :, k] > 0)
        if position.estimated and len(pixels) > 200:
            points = np.column_stack([pixels, np.full(len(pixels), k), np.ones(len(pixels))])
            world = stack.acquired.world_from_voxel @ points.T
            truth = moved.get(k, (np.eye(4), 1.0))[0]
            apart = (np.linalg.inv(position.moved(centre)) - np.linalg.inv(truth)) @ world
            errors[k] = float(np.linalg.norm(apart[:3], axis=0).mean())
    return errors


@pytest.mark.slow
def test_a_moved_slice_is_found_and_corrected(scaffold, truth, placed):
    n_slices = placed(2, 12.0, 12.0).acquired.data.shape[2]
    k = n_slices // 2
    moved = {k: (rigid([3, -2, 3], [3, -2, 1.5], CENTRE), 1.0)}
    stack = moving_stack(truth, placed, moved)
    corrected = fitted([stack], scaffold, replace(QUICK, motion="slice"))
    errors = slice_errors_mm(corrected, moved, scaffold)
    assert errors[k] < 0.5
    assert np.median(list(errors.values())) < 0.5
    assert score(corrected, truth, scaffold) > score(fitted([stack], scaffold, QUICK), truth, scaffold)


@pytest.mark.slow
def test_a_head_that_lies_still_is_not_moved(scaffold, truth, placed):
    stack = moving_stack(truth, placed, {})
    result = fitted([stack], scaffold, replace(QUICK, motion="slice"))
    assert {replace(own, estimated=True) for own in result.stacks[0].motion} == {AT_REST}


@pytest.mark.slow
def test_an_interleave_that_moved_and_is_brighter(scaffold, truth, placed):
    """Odd slices were acquired in a second pass, after a movement, with 20 % more signal."""
    n_slices = placed(2, 12.0, 12.0).acquired.data.shape[2]
    moved = {k: (rigid([2, 1, -3], [2, 1, -1], CENTRE), 1.2) for k in range(1, n_slices, 2)}
    stack = moving_stack(truth, placed, moved)
    corrected = fitted([stack], scaffold, replace(QUICK, motion="slice"))
    motion = corrected.stacks[0].motion
    gains = [
        np.median([p.gain for k, p in enumerate(motion) if p.estimated and k % 2 == odd]) for odd in (0, 1)
    ]
    assert gains[1] / gains[0] == pytest.approx(1.2, rel=0.03)
    assert score(corrected, truth, scaffold) > score(fitted([stack], scaffold, QUICK), truth, scaffold) + 0.5


@pytest.mark.parametrize(
    ("n_slices", "sidecar", "shots", "packets"),
    [
        (4, {}, [(0,), (2,), (1,), (3,)], [0, 0, 1, 1]),
        (3, {"SliceTiming": [0.0, 0.5, 1.0]}, [(0,), (1,), (2,)], [0, 0, 0]),
        (3, {"SliceTiming": [1.0, 0.5, 0.0]}, [(2,), (1,), (0,)], [0, 0, 0]),
        (3, {"SliceTiming": [0.0, 0.5, 1.0], "SliceEncodingDirection": "k-"}, [(2,), (1,), (0,)], [0, 0, 0]),
        (4, {"SliceTiming": [0.0, 0.5, 0.0, 0.5]}, [(0, 2), (1, 3)], [0, 0]),
        (
            6,
            {"SliceTiming": [0.5, 0.0, 0.7, 0.2, 0.9, 0.4]},
            [(1,), (3,), (5,), (0,), (2,), (4,)],
            [0] * 3 + [1] * 3,
        ),
        (2, {"SliceTiming": [0.0]}, [(0,), (1,)], [0, 0]),
    ],
)
def test_shots_and_passes_follow_the_times(n_slices, sidecar, shots, packets):
    found = shots_of(n_slices, sidecar)
    assert [shot.slices for shot in found] == shots
    assert [shot.packet for shot in found] == packets
