"""Views against functions of space that are known everywhere: orientation, thickness, error, files."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from atlasgs_bids.core.gaussians import joined
from atlasgs_bids.core.scaffold import lattice_gaussians
from atlasgs_bids.errors import ConfigurationError, InputError
from atlasgs_bids.imaging.volume import Grid, voxel_sizes_mm
from atlasgs_bids.restoration.scaffold_files import save_scaffold
from atlasgs_bids.restoration.target_files import n_shared_of, read_session, read_target, save_target
from atlasgs_bids.restoration.views import Region, Slices, TargetModel, View, at_gaussians, rendered

N = 24
AFFINE = np.array([[1.9, -0.3, 0.1, -20.0], [0.2, 1.9, -0.5, -18.0], [0.1, 0.6, 1.8, -25.0], [0, 0, 0, 1.0]])
"""An oblique lattice of some 2 mm."""
SLOPES = np.array([3.0, -5.0, 8.0])
RIPPLE = 0.6
"""What normalised rendering may make of a ramp."""
POINT = np.array([1.0, 4.0, 2.0])
"""mm, in the middle of it."""
NORMALS = {
    "axial": [0, 0, 1.0],
    "coronal": [0, -1.0, 0],
    "sagittal": [1.0, 0, 0],
    "oblique": [0.3, -0.5, 0.81],
    "steep": [-0.7, 0.6, 0.2],
}


def world_of(grid):
    """(x, y, z, 3) voxel centres, mm."""
    voxels = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    return voxels @ grid.world_from_voxel[:3, :3].T + grid.world_from_voxel[:3, 3]


def ramp(points):
    """Another value in every direction: any swap, flip or shift of a plane changes it."""
    return 500 + points @ SLOPES


def model_of(function, **more):
    gaussians = lattice_gaussians(torch.ones(N, N, N, dtype=torch.bool), torch.from_numpy(AFFINE), N**3, 0.6)
    amplitudes = function(gaussians.means_mm.double().numpy())
    gaussians = replace(gaussians, amplitudes=torch.from_numpy(amplitudes).float())
    return TargetModel(gaussians, AFFINE[:3, :3], **more)


def within(grid, margin=3.0):
    """Where a grid lies inside the lattice, its border left out."""
    inverse = np.linalg.inv(AFFINE)
    voxels = world_of(grid) @ inverse[:3, :3].T + inverse[:3, 3]
    return ((voxels > margin) & (voxels < N - 1 - margin)).all(-1)


@pytest.mark.parametrize("name", NORMALS)
def test_a_plane_shows_what_lies_where_its_affine_says(name):
    view = model_of(ramp).plane(POINT, NORMALS[name], 1.5)
    image, inside = model_of(ramp).render(view), within(view.grid)
    assert inside.sum() > 200
    # It rises by 10 a millimetre: this is 0.06 mm.
    np.testing.assert_allclose(image[inside], ramp(world_of(view.grid))[inside], atol=RIPPLE)


@pytest.mark.parametrize("name", NORMALS)
def test_a_plane_lies_across_its_normal_through_its_point(name):
    normal = np.array(NORMALS[name]) / np.linalg.norm(NORMALS[name])
    grid = model_of(ramp).plane(POINT, 7 * normal, 1.5).grid
    axes = grid.world_from_voxel[:3, :3] / voxel_sizes_mm(grid.world_from_voxel)
    np.testing.assert_allclose(axes[:, 2], normal, atol=1e-9)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(world_of(grid) - POINT, axis=-1).min(), 0, atol=1e-6)
    # Everything that Gaussians reach: no corner of the lattice projects outside.
    corners = np.stack(np.meshgrid(*[[0, N - 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    corners = corners @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    inverse = np.linalg.inv(grid.world_from_voxel)
    voxels = (corners @ inverse[:3, :3].T + inverse[:3, 3])[:, :2]
    assert (voxels > -0.5).all()
    assert (voxels < np.array(grid.shape[:2]) - 0.5).all()


def test_default_axes_are_those_of_anatomy():
    for name, across, up in (("axial", 0, 1), ("coronal", 0, 2), ("sagittal", 1, 2)):
        grid = model_of(ramp).plane(POINT, NORMALS[name], 1.0).grid
        np.testing.assert_allclose(grid.world_from_voxel[:3, 0], np.eye(3)[across], atol=1e-9)
        np.testing.assert_allclose(grid.world_from_voxel[:3, 1], np.eye(3)[up], atol=1e-9)
    turned = model_of(ramp).plane(POINT, [0, 0, 1], 1.0, up=[1, 0, 5]).grid
    np.testing.assert_allclose(turned.world_from_voxel[:3, 1], [1, 0, 0], atol=1e-9)


def test_a_stack_has_its_point_in_the_middle_and_its_slices_apart():
    view = model_of(ramp).plane(POINT, NORMALS["oblique"], 2.0, slices=Slices(4, 3.0, 5.0), fov_mm=20.0)
    assert view.grid.shape == (11, 11, 4)
    np.testing.assert_allclose(voxel_sizes_mm(view.grid.world_from_voxel), [2, 2, 5])
    np.testing.assert_allclose(world_of(view.grid).mean((0, 1, 2)), POINT, atol=1e-9)
    inside = within(view.grid, 4.0)
    image = model_of(ramp).render(view)
    np.testing.assert_allclose(image[inside], ramp(world_of(view.grid))[inside], atol=RIPPLE)


@pytest.mark.parametrize(
    ("profile", "variance_mm2"), [("box", 6.0**2 / 12), ("gaussian", (6.0 / 2.3548) ** 2)]
)
def test_a_thick_plane_is_the_mean_through_its_profile(profile, variance_mm2):
    """Of the squared distance from the plane it is the profile's variance more than a thin one has."""
    normal = np.array(NORMALS["oblique"]) / np.linalg.norm(NORMALS["oblique"])
    model = model_of(lambda points: ((points - POINT) @ normal) ** 2)
    thin = model.plane(POINT, normal, 2.0, fov_mm=6.0)
    thick = model.plane(POINT, normal, 2.0, slices=Slices(1, 6.0, profile=profile), fov_mm=6.0)
    more = model.render(thick) - model.render(replace(thin, profile=None))
    # Summed over parts as long as a cell, a box of three of them loses a ninth.
    np.testing.assert_allclose(more, variance_mm2, rtol=0.15)


def test_radial_planes_all_hold_their_axis_and_are_evenly_turned():
    axis = np.array([0.2, -0.4, 0.9]) / np.linalg.norm([0.2, -0.4, 0.9])
    views = model_of(ramp).radial(POINT, axis, 6, 1.5)
    normals = []
    for view in views:
        inverse = np.linalg.inv(view.grid.world_from_voxel)
        voxels = (POINT + np.outer([-9, 0, 12], axis)) @ inverse[:3, :3].T + inverse[:3, 3]
        np.testing.assert_allclose(voxels[:, 2], 0, atol=1e-9)
        np.testing.assert_allclose(np.ptp(voxels[:, 0]), 0, atol=1e-9)
        normals.append(view.grid.world_from_voxel[:3, 2] / 1.5)
        image, inside = model_of(ramp).render(view), within(view.grid)
        np.testing.assert_allclose(image[inside], ramp(world_of(view.grid))[inside], atol=RIPPLE)
    turns = [np.degrees(np.arccos(a @ b)) for a, b in pairwise(normals)]
    np.testing.assert_allclose(turns, 30, atol=1e-6)


def test_everything_in_voxels_of_one_size_with_and_without_a_result():
    grid = Grid((N, N, N), AFFINE)
    for model in (model_of(ramp), model_of(ramp, region=Region(grid, np.ones((N, N, N), bool)))):
        view = model.whole(1.5)
        np.testing.assert_allclose(voxel_sizes_mm(view.grid.world_from_voxel), 1.5)
        image, inside = model.render(view), within(view.grid)
        assert inside.sum() * 1.5**3 > 0.3 * abs(np.linalg.det(AFFINE)) * N**3
        np.testing.assert_allclose(image[inside], ramp(world_of(view.grid))[inside], atol=RIPPLE)


def test_outside_its_region_a_view_is_0_and_nowhere_below_its_floor():
    grid = Grid((N, N, N), AFFINE)
    inside = np.zeros(grid.shape, bool)
    inside[: N // 2] = True
    model = model_of(lambda points: ramp(points) - 500, region=Region(grid, inside), floor=0.0)
    image = model.render(View(grid))
    assert (image[~inside] == 0).all()
    assert (image >= 0).all()
    assert (image[inside] == 0).mean() > 0.2
    free = replace(model, region=None, floor=None).render(View(grid))
    np.testing.assert_array_equal(image[inside], np.maximum(free[inside], 0))
    oblique = model.plane(POINT, NORMALS["steep"], 1.0)
    voxel = np.linalg.inv(AFFINE) @ np.append(world_of(oblique.grid)[5, 5, 0], 1)
    assert voxel[0] < N
    beyond = (world_of(oblique.grid) @ np.linalg.inv(AFFINE)[0, :3] + np.linalg.inv(AFFINE)[0, 3]) > N / 2
    assert (model.render(oblique)[beyond] == 0).all()


def bumpy(points):
    """A standard deviation that waves over 16 mm."""
    return 30 + 10 * np.sin(2 * np.pi * points @ np.array([0.6, 0.0, 0.8]) / 16)


def test_the_error_at_gaussians_renders_the_error_of_the_result_and_of_any_plane():
    grid, model = Grid((N, N, N), AFFINE), model_of(ramp)
    region = Region(grid, within(grid, 0.5))
    wanted = np.where(region.inside, bumpy(world_of(grid)), 0).astype(np.float32)
    sd = at_gaussians(
        wanted, region, model.gaussians, lambda a: rendered(model.gaussians, a, grid, AFFINE[:3, :3])
    )
    model = replace(model, sd=sd, region=region)
    apart = np.abs(model.render_sd(View(grid)) / np.where(region.inside, wanted, 1) - 1)[region.inside]
    assert np.quantile(apart, 0.95) < 0.02
    assert apart.max() < 0.06
    # Sampled alone, rendering smooths it more than that.
    plain = replace(model, sd=torch.from_numpy(bumpy(model.gaussians.means_mm.double().numpy())).float())
    error, plain_error = (
        float(np.median(np.abs(own.render_sd(View(grid)) - wanted)[region.inside])) for own in (model, plain)
    )
    assert error < 0.5 * plain_error
    plane = model.plane(POINT, NORMALS["oblique"], 1.0)
    inside = within(plane.grid, 3.0)
    np.testing.assert_allclose(model.render_sd(plane)[inside], bumpy(world_of(plane.grid))[inside], rtol=0.05)


def test_where_no_error_was_estimated_none_is_made_up():
    with pytest.raises(InputError, match=r"found no standard deviation .* run again with --overwrite"):
        model_of(ramp).render_sd(model_of(ramp).plane(POINT, [0, 0, 1], 2.0))


def test_turning_space_turns_the_view_alone():
    """A plane of the turned head, turned as well, is the same picture."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec([0.1, 0.5, 0.3]).as_matrix()
    motion[:3, 3] = [7.0, -3.0, 2.0]
    first = model_of(ramp)
    turned = replace(
        first,
        gaussians=replace(
            lattice_gaussians(
                torch.ones(N, N, N, dtype=torch.bool), torch.from_numpy(motion @ AFFINE), N**3, 0.6
            ),
            amplitudes=first.gaussians.amplitudes,
        ),
    )
    view = first.plane(POINT, NORMALS["oblique"], 1.5, slices=Slices(2, 3.0))
    moved = replace(view, grid=Grid(view.grid.shape, motion @ view.grid.world_from_voxel))
    np.testing.assert_allclose(turned.render(moved), first.render(view), atol=0.05)


WRONG = {
    "no normal": (
        {"normal": [0, 0, 0]},
        "the normal is .0, 0, 0., expected three numbers that are not all 0",
    ),
    "not a number": ({"normal": [0, np.nan, 1]}, "the normal is"),
    "up along the normal": ({"normal": [0, 0, 1], "up": [0, 0, -2]}, "expected one in the plane"),
    "too many voxels": ({"normal": [0, 0, 1], "spacing_mm": 0.001}, "choose a larger spacing"),
    "no thickness": ({"normal": [0, 0, 1], "slices": Slices(1, 0.0)}, "slice thickness 0.0 mm"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_plane_that_cannot_be_is_refused(case):
    arguments, message = WRONG[case]
    with pytest.raises(ConfigurationError, match=message):
        model_of(ramp).plane(POINT, **{"spacing_mm": 2.0, **arguments})


@pytest.fixture
def stored(tmp_path):
    """A target of shared and own Gaussians, with everything that a file may hold."""
    gaussians = model_of(ramp).gaussians
    more = replace(gaussians, **{name: value[:50] + 0.01 for name, value in vars(gaussians).items()})
    inside = np.random.default_rng(0).random((N, N, N)) > 0.4
    inside[0, 0, 0] = True
    model = TargetModel(
        joined([gaussians, more]), AFFINE[:3, :3],
        sd=torch.linspace(0, 90_000, N**3 + 50), region=Region(Grid((N, N, N), AFFINE), inside),
        floor=0.0, form_code=2,
    )  # fmt: skip
    save_scaffold(tmp_path / "session.npz", gaussians, "fingerprint", 40.0)
    save_target(tmp_path / "target.npz", model, N**3)
    return model, tmp_path


def test_a_file_holds_all_that_a_view_needs(stored):
    model, folder = stored
    assert n_shared_of(folder / "target.npz") == N**3
    read = read_target(folder / "target.npz", folder / "session.npz")
    for name, values in vars(model.gaussians).items():
        torch.testing.assert_close(getattr(read.gaussians, name), values, rtol=0, atol=0)
    np.testing.assert_array_equal(read.region.inside, model.region.inside)
    np.testing.assert_array_equal(read.region.grid.world_from_voxel, AFFINE)
    np.testing.assert_array_equal(read.cell_mm, model.cell_mm)
    assert (read.floor, read.form_code) == (0.0, 2)
    # Half precision in units of the largest, which half precision itself could not hold.
    torch.testing.assert_close(read.sd, model.sd, rtol=1e-3, atol=1.0)


def test_a_file_without_shared_gaussians_stands_alone(tmp_path):
    save_target(tmp_path / "own.npz", model_of(ramp), 0)
    assert n_shared_of(tmp_path / "own.npz") == 0
    read = read_target(tmp_path / "own.npz", None)
    assert (read.sd, read.region, read.floor) == (None, None, None)
    view = model_of(ramp).plane(POINT, [0, 0, 1], 2.0)
    np.testing.assert_array_equal(read.render(view), model_of(ramp).render(view))


def test_a_file_of_the_first_schema_is_still_read(stored):
    model, folder = stored
    own = {f"specific_{name}": value[N**3 :].numpy() for name, value in vars(model.gaussians).items()}
    shared = model.gaussians.amplitudes[: N**3].numpy()
    np.savez(folder / "old.npz", schema="atlasgs-appearance-1", shared_amplitudes=shared, **own)
    read = read_target(folder / "old.npz", folder / "session.npz")
    torch.testing.assert_close(read.gaussians.amplitudes, model.gaussians.amplitudes, rtol=0, atol=0)
    assert (read.sd, read.region) == (None, None)
    np.testing.assert_allclose(read.finest_mm, 1.9, atol=RIPPLE)


def test_the_session_shows_its_anchor(stored):
    _, folder = stored
    assert n_shared_of(folder / "session.npz") is None
    view = model_of(ramp).plane(POINT, [0, 0, 1], 2.0)
    np.testing.assert_allclose(
        read_session(folder / "session.npz").render(view), model_of(ramp).render(view), atol=0.5
    )


def test_another_scaffold_is_not_taken_for_the_targets_own(stored):
    model, folder = stored
    shared = replace(model.gaussians, **{n: v[: N**3] for n, v in vars(model.gaussians).items()})
    save_scaffold(folder / "moved.npz", replace(shared, means_mm=shared.means_mm + 1), "fingerprint", 40.0)
    fewer = replace(shared, **{name: value[:-5] for name, value in vars(shared).items()})
    save_scaffold(folder / "fewer.npz", fewer, "fingerprint", 40.0)
    for name in ("moved.npz", "fewer.npz"):
        with pytest.raises(InputError, match=f"{name}: .* not those of target.npz, expected the {N**3}"):
            read_target(folder / "target.npz", folder / name)
    with pytest.raises(InputError, match="are its session's, expected their file as well"):
        read_target(folder / "target.npz", None)


@pytest.mark.parametrize("damage", ["schema", "runs", "size", "truncated", "text"])
def test_a_damaged_file_is_refused(stored, damage):
    _, folder = stored
    arrays = dict(np.load(folder / "target.npz"))
    path = folder / "damaged.npz"
    if damage == "schema":
        arrays["schema"] = np.array("atlasgs-appearance-9")
    elif damage == "runs":
        arrays["region_runs"] = arrays["region_runs"][:-1]
    elif damage == "size":
        arrays |= {"region_shape": np.array([10**5] * 3), "region_runs": np.array([10**15])}
    np.savez(path, **arrays)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-3000])
    elif damage == "text":
        path.write_text("no archive")
    with pytest.raises(InputError, match=r"damaged\.npz: not readable as Gaussians"):
        _ = n_shared_of(path), read_target(path, folder / "session.npz")
