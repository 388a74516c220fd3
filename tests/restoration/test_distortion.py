"""A displacement of the phantom, found from its slices; and none where there is none."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from atlasgs_bids.errors import ConfigurationError
from atlasgs_bids.imaging.displacement import Displacement, centres_mm, coarse_grid
from atlasgs_bids.imaging.slices import slice_geometry
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import anchor_of
from atlasgs_bids.restoration.distortion import may_be_displaced, with_displacement
from atlasgs_bids.restoration.guides import Guides
from atlasgs_bids.restoration.observation import observe_placed
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import StackInput, place
from atlasgs_bids.runtime.progress import Progress
from tests.imaging.phantom import T1W, T2W, head

SIZE_MM = 4
SETTINGS = RestorationSettings(device="cpu", registration="auto", slice_profile="box")
HEADER = replace(SETTINGS, registration="header")
QUIET = Progress.quiet()
CENTRE = np.array([0.0, 40.0, 10.0])


@pytest.fixture(scope="module")
def anchor():
    return anchor_of(head(T1W, SIZE_MM, with_scalp=False))


@pytest.fixture(scope="module")
def guides(anchor):
    return Guides(anchor)


def shift_mm(points):
    """6 mm forwards in the middle of the forehead."""
    return 6.0 * np.exp(-((points - CENTRE) ** 2).sum(-1) / (2 * 22.0**2))


def acquired(*, displaced):
    """Slices of 8 mm of the phantom, displaced along y or not, its signal kept; 1 % of noise."""
    image = head(T2W, SIZE_MM, with_scalp=False)
    data = image.data.astype(np.float64)
    if displaced:
        there = centres_mm(image.grid)
        source = there.copy()
        for _ in range(20):
            source[:, 1] = there[:, 1] - shift_mm(source)
        stretch = 1 - shift_mm(source) * (source[:, 1] - CENTRE[1]) / 22.0**2
        voxels = (source - image.world_from_voxel[:3, 3]) @ np.linalg.inv(image.world_from_voxel[:3, :3]).T
        data = (ndimage.map_coordinates(data, voxels.T, order=1) / stretch).reshape(data.shape)
    data = data + np.random.default_rng(0).normal(0, 1.0, data.shape)
    return Volume(data.astype(np.float32), image.world_from_voxel).averaged((1, 1, 2))


def placed(anchor, volume, settings=HEADER, **known):
    geometry = slice_geometry(volume.data.shape, volume.world_from_voxel, {}, 2.0 * SIZE_MM)
    return place(StackInput("slices", geometry, **known), volume, anchor, settings, QUIET)


def found_mm(stack, points):
    """Where the found map has the points, relative to where they are."""
    moved = points if stack.displacement is None else points + stack.displacement.at(points)
    pose = stack.registration.target_from_anchor
    return moved @ pose[:3, :3].T + pose[:3, 3] - points


def test_a_displacement_is_found_and_confirmed(anchor, guides):
    stack = placed(anchor, acquired(displaced=True), phase_axis=1)
    found = with_displacement(stack, guides, SETTINGS, QUIET)
    points = guides.points_mm
    truth = np.zeros_like(points)
    truth[:, 1] = shift_mm(points)
    far = truth[:, 1] > 2
    off = np.linalg.norm(found_mm(found, points) - truth, axis=1)
    assert found.registration.method == "deformable"
    assert truth[far, 1].mean() > 3
    assert off[far].mean() < 1.0
    assert off.mean() < 0.7
    said = found.calibration.distortion
    assert said.gain > 2 * said.gain_error > 0
    assert 3 < said.length_mm[1] < 8
    # The other direction is told apart: there is no displacement along x.
    assert np.abs(found.displacement.vectors_mm[..., [0, 2]]).max() < 1e-3


def test_a_head_that_is_not_displaced_stays_where_it_was(anchor, guides):
    stack = placed(anchor, acquired(displaced=False), phase_axis=1)
    same = with_displacement(stack, guides, SETTINGS, QUIET)
    assert same.displacement is None
    assert same.registration == stack.registration
    assert same.calibration.distortion.length_mm is None


def test_nothing_is_displaced_that_is_not_said_to_be(anchor):
    volume = acquired(displaced=False)
    stack = placed(anchor, volume, phase_axis=1)
    assert may_be_displaced(stack, SETTINGS)
    assert not may_be_displaced(stack, replace(SETTINGS, registration="rigid"))
    assert not may_be_displaced(placed(anchor, volume), SETTINGS)


def test_a_displacement_that_is_given_is_used(anchor):
    """Slices are predicted where it has the head, with the signal that it makes of it; with its position."""
    volume = acquired(displaced=True)
    grid = coarse_grid(anchor.volume.grid)
    nodes = centres_mm(grid)
    vectors = np.zeros((len(nodes), 3), np.float32)
    vectors[:, 1] = shift_mm(nodes)
    shift = np.array([3.0, -2.0, 1.0], np.float32)
    away = Volume(volume.data, volume.world_from_voxel.copy())
    away.world_from_voxel[:3, 3] += shift
    given = Displacement((vectors + shift).reshape(*grid.shape, 3), grid)
    stack = placed(anchor, away, SETTINGS, displacement=given)
    assert stack.registration.method == "derivative"
    assert np.linalg.norm(stack.registration.target_from_anchor[:3, 3] - shift) < 6
    np.testing.assert_allclose(found_mm(stack, nodes), vectors + shift, atol=0.05)
    guide = Guides(anchor).at(SIZE_MM, SETTINGS)
    truth = head(T2W, SIZE_MM, with_scalp=False)
    far = guide.gaussians.amplitudes.new_tensor(
        shift_mm(centres_mm(volume.grid)).reshape(volume.data.shape) > 3
    )
    errors = []
    for own in (stack, replace(stack, displacement=None)):
        observation = observe_placed(own, guide.anchor, guide.gaussians, SETTINGS)
        # The amplitudes of a lattice with σ = 0.65 are nearly the image's values.
        index = np.round(
            np.linalg.inv(truth.world_from_voxel)[:3]
            @ np.c_[guide.gaussians.means_mm, np.ones(len(guide.gaussians))].T
        ).astype(int)
        amplitudes = guide.gaussians.amplitudes.new_tensor(truth.data[tuple(index)])
        error = observation.slices_from_amplitudes.forward(amplitudes) - observation.slices
        errors.append(float((observation.weights * far * error.square()).sum()))
    assert errors[0] < 0.6 * errors[1]
    settings = replace(
        SETTINGS, core=replace(SETTINGS.core, geometry=replace(SETTINGS.core.geometry, mode="joint"))
    )
    with pytest.raises(ConfigurationError, match=r"slices: a displacement is given and --geometry joint"):
        placed(anchor, away, settings, displacement=given)
