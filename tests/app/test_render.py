"""atlasgs-render on what a real run of the app wrote: the result again, other grids, pictures, errors."""

import json
import shutil
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner
from matplotlib import image as pictures
from scipy.spatial.transform import Rotation

import atlasgs_bids as ag
from atlasgs_bids.app.render import main
from atlasgs_bids.app.view_files import load_target, save_png, session_of
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.itk import itk_affine
from atlasgs_bids.imaging.planes import plane_grid, radial_axes, shown_as, shown_upright
from atlasgs_bids.imaging.volume import Grid
from tests.bids_datasets import Dataset
from tests.runs import command, finished, outputs


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("render")
    dataset = Dataset.create(root / "bids").add_participant("01", "FLAIR")
    quick = command(dataset.root, root / "out")
    # The scaffold as it comes: one Gaussian for each voxel.
    for option in ("--n-gaussians", "--scaffold-steps"):
        del quick[quick.index(option) : quick.index(option) + 2]
    ended = finished("atlasgs_bids.app.cli", *quick[3:])
    assert ended.returncode == 0, ended.stderr
    return outputs(root / "out", "01", "FLAIR")


def render(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def rendered(*arguments):
    """The image that a successful call wrote to its last argument."""
    ended = render(*arguments[:-1], "-o", arguments[-1])
    assert ended.exit_code == 0, ended.output
    return nib.load(arguments[-1])


def test_on_its_own_grid_the_result_comes_out_again(files, tmp_path):
    """To rounding: the affine of a NIfTI file is single precision."""
    image = rendered(
        files.scaffold_npz, "--like", files.sr, "--sd", tmp_path / "sd.nii", tmp_path / "sr.nii.gz"
    )
    stored = nib.load(files.sr)
    values, expected = np.asarray(image.dataobj), np.asarray(stored.dataobj)
    assert image.get_data_dtype() == stored.get_data_dtype() == np.float32
    np.testing.assert_array_equal(image.affine, stored.affine)
    assert expected.max() > 300
    np.testing.assert_allclose(values, expected, atol=1e-4 * expected.max())
    np.testing.assert_array_equal(values == 0, expected == 0)
    sd, expected_sd = (np.asarray(nib.load(p).dataobj) for p in (tmp_path / "sd.nii", files.srstd))
    inside = expected_sd > 0
    np.testing.assert_array_equal(sd[~inside], 0)
    apart = np.abs(sd[inside] / expected_sd[inside] - 1)
    # The sd of position and profile follows the image's slopes from voxel to voxel, here of 3 mm.
    assert np.median(apart) < 0.03
    assert np.quantile(apart, 0.95) < 0.15


def test_all_of_it_in_voxels_of_its_size_is_the_result(files, tmp_path):
    image = rendered(files.scaffold_npz, "--spacing", 3, tmp_path / "a.nii.gz")
    stored = nib.load(files.sr)
    np.testing.assert_allclose(image.affine, stored.affine, atol=1e-5)
    np.testing.assert_allclose(image.get_fdata(), stored.get_fdata(), atol=1e-3)
    fine = rendered(files.scaffold_npz, "--spacing", 1.5, tmp_path / "b.nii.gz")
    assert fine.shape == tuple(2 * n for n in stored.shape)


@pytest.mark.parametrize("invert", [False, True])
def test_the_grid_of_another_scan_through_a_transform(files, tmp_path, invert):
    """A world in which the head is turned and shifted: there, the result is itself again."""
    other_from_t1w = np.eye(4)
    other_from_t1w[:3, :3] = Rotation.from_rotvec([0.2, -0.1, 0.4]).as_matrix()
    other_from_t1w[:3, 3] = [5.0, -8.0, 11.0]
    stored = nib.load(files.sr)
    nib.save(
        nib.Nifti1Image(np.zeros(stored.shape), other_from_t1w @ stored.affine), tmp_path / "other.nii.gz"
    )
    # What antsApplyTransforms -t takes to carry the T1w there is a point map from there to the T1w.
    point_map = other_from_t1w if invert else np.linalg.inv(other_from_t1w)
    SimpleITK.WriteTransform(itk_affine(point_map), str(tmp_path / "xfm.txt"))
    flag = ["--invert-transform"] if invert else []
    arguments = ["--like", tmp_path / "other.nii.gz", "--transform", tmp_path / "xfm.txt", *flag]
    image = rendered(files.scaffold_npz, *arguments, tmp_path / "view.nii.gz")
    np.testing.assert_allclose(image.affine, other_from_t1w @ stored.affine, atol=1e-4)
    apart = np.abs(image.get_fdata() - stored.get_fdata())
    assert np.quantile(apart, 0.999) < 1e-3 * stored.get_fdata().max()
    sidecar = json.loads((tmp_path / "view.json").read_text())
    assert sidecar["TransformInverted"] is invert
    assert sidecar["Sources"][-2:] == ["other.nii.gz", "xfm.txt"]


@pytest.mark.parametrize(
    ("name", "flag", "said"),
    [
        ("from-FLAIR_to-T1w_xfm.txt", [], "is --invert-transform missing?"),
        ("from-FLAIR_to-T1w_xfm.txt", ["--invert-transform"], ""),
        ("from-T1w_to-CT_xfm.txt", [], ""),
        ("from-T1w_to-CT_xfm.txt", ["--invert-transform"], "is --invert-transform too much?"),
    ],
)
def test_a_transform_whose_name_says_the_opposite_is_doubted(files, tmp_path, name, flag, said):
    SimpleITK.WriteTransform(itk_affine(np.eye(4)), str(tmp_path / name))
    arguments = ["--like", files.sr, "--transform", tmp_path / name, *flag, "-o", tmp_path / "v.nii"]
    ended = render(files.scaffold_npz, *arguments)
    assert ended.exit_code == 0
    assert (said in ended.stderr) if said else (ended.stderr == "")


def test_a_plane_is_a_slice_of_the_result_where_they_meet(files, tmp_path):
    stored = nib.load(files.sr)
    point = stored.affine @ [12, 10, 11, 1]
    image = rendered(
        files.scaffold_npz, "--plane", *point[:3], 0, 1, 0, "--spacing", 3, tmp_path / "p.nii.gz"
    )
    assert image.shape[2] == 1
    world = image.affine @ [*np.indices(image.shape).reshape(3, -1), np.ones(image.shape[0] * image.shape[1])]
    i, j, k = np.rint((np.linalg.inv(stored.affine) @ world)[:3]).astype(int)
    assert (j == 10).all()
    within = ((np.stack([i, k]) >= 0) & (np.stack([i, k]) < 24)).all(0)
    assert within.sum() > 200
    expected = stored.get_fdata()[i[within], 10, k[within]]
    np.testing.assert_allclose(image.get_fdata().reshape(-1)[within], expected, atol=1e-2)
    sidecar = json.loads((tmp_path / "p.json").read_text())
    assert sidecar["PlaneNormal"] == [0, 1, 0]
    assert sidecar["SliceThickness"] == 3
    assert sidecar["GeneratedBy"] == [{"Name": "AtlasGS", "Version": ag.__version__}]
    named = [(tmp_path / source).resolve().name for source in sidecar["Sources"]]
    assert named == [files.scaffold_npz.name, "sub-01_space-T1w_desc-atlasgs_scaffold.npz"]
    assert all((tmp_path / source).exists() for source in sidecar["Sources"])


def test_radial_planes_are_files_of_their_own_each_where_it_is(files, tmp_path):
    ended = render(
        files.scaffold_npz, "--radial", 0, 0, 0, 0, 0, 1, "--slices", 3, "-o", tmp_path / "r.nii.gz"
    )
    assert ended.exit_code == 0, ended.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"r_plane-{n}.{kind}" for n in (1, 2, 3) for kind in ("json", "nii.gz")
    ]  # fmt: skip
    normals = [nib.load(tmp_path / f"r_plane-{n}.nii.gz").affine[:3, 2] / 3 for n in (1, 2, 3)]
    np.testing.assert_allclose([a @ b for a, b in pairwise(normals)], 0.5, atol=1e-5)
    assert "exists" in render(
        files.scaffold_npz, "--radial", 0, 0, 0, 0, 0, 1, "--slices", 3, "-o", tmp_path / "r.nii.gz"
    ).output  # fmt: skip


def test_python_sees_the_same(files, tmp_path):
    model = ag.load_target(files.scaffold_npz)
    view = model.plane((2, -3, 4), (0.2, 0.5, 0.8), 2.0, slices=ag.Slices(3, 4.0, profile="gaussian"))
    options = ["--spacing", 2, "--slices", 3, "--thickness", 4, "--slice-profile", "gaussian"]
    image = rendered(files.scaffold_npz, "--plane", 2, -3, 4, 0.2, 0.5, 0.8, *options, tmp_path / "p.nii.gz")
    np.testing.assert_allclose(image.get_fdata(), model.render(view), atol=1e-3)
    np.testing.assert_allclose(image.affine, view.grid.world_from_voxel, atol=1e-5)


def test_a_picture_has_the_patients_right_and_the_face_on_the_left(tmp_path):
    """One bright voxel to the right, in front and above, in three voxel orders."""
    for order in ("RAS", "LPI", "SRA"):
        axes = nib.orientations.axcodes2ornt(order)
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for voxel_axis, (world_axis, sign) in enumerate(axes):
            affine[int(world_axis), voxel_axis] = sign
        for along, (top, left) in {2: (True, True), 1: (True, True), 0: (True, True)}.items():
            image = np.zeros((9, 9, 9), np.float32)
            world = np.full(3, 3.0)
            world[along] = 0
            affine[:3, 3] = -affine[:3, :3] @ np.full(3, 4.0)
            i, j, k = np.rint(np.linalg.inv(affine) @ [*world, 1])[:3].astype(int)
            image[i, j, k] = 1
            through = int(np.abs(affine[along, :3]).argmax())
            # Slices are along the third axis: that one is brought there.
            others = [axis for axis in range(3) if axis != through]
            turned = affine[:, [*others, through, 3]]
            grid = Grid((9, 9, 9), turned)
            moved = np.transpose(image, [*others, through])[..., 4:5]
            flat = Grid(
                (9, 9, 1), turned @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1.0]])
            )
            save_png(tmp_path / "p.png", [moved], [flat], (0, 1))
            assert grid.shape == (9, 9, 9)
            row, column = np.unravel_index(pictures.imread(tmp_path / "p.png")[..., 0].argmax(), (9, 9))
            assert (row < 4, column < 4) == (top, left), (order, along)


def test_pictures_of_planes_of_a_stack_and_of_the_error(files, tmp_path):
    ended = render(
        files.scaffold_npz, "--plane", 0, 0, 0, 0.3, 0, 1, "--slices", 6, "--fov", 60, "--sd",
        tmp_path / "sd.png", "--window", 0, 900, "-o", tmp_path / "stack.png",
    )  # fmt: skip
    assert ended.exit_code == 0, ended.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sd.png", "stack.png"]
    picture, sd = (pictures.imread(tmp_path / name)[..., 0] for name in ("stack.png", "sd.png"))
    assert picture.shape == sd.shape == (2 * 21, 3 * 21)
    model = load_target(files.scaffold_npz)
    view = model.plane((0, 0, 0), (0.3, 0, 1), slices=ag.Slices(6), fov_mm=60)
    grey = model.render(view)[::-1, :, 0].T[::-1] / 900
    np.testing.assert_allclose(picture[:21, :21], np.clip(grey, 0, 1), atol=0.01)


def test_what_is_up_is_up_in_the_picture_and_the_plane_is_seen_from_the_same_side(files, tmp_path):
    """By default a plane is shown as any grid is; by a quarter, the picture is turned and not mirrored."""
    model = load_target(files.scaffold_npz)
    for normal, up in (([0, 0, 1], [1, 0, 0]), ([0, -1, 0], [1, 0, 0]), ([1, 0, 0], [0, 1, 0])):
        plain, turned = (model.plane((3, 5, 2), normal, 3.0, up=u, fov_mm=60) for u in (None, up))
        assert shown_upright(plain.grid) == shown_as(plain.grid)
        pictures_of = []
        for view in (plain, turned):
            save_png(tmp_path / "p.png", [model.render(view)], [view.grid], (0, 900), shown_upright)
            pictures_of.append(pictures.imread(tmp_path / "p.png")[..., 0])
        quarters = [np.abs(np.rot90(pictures_of[0], n) - pictures_of[1]).max() for n in range(4)]
        # What is asked to be up was to the left or to the right before.
        assert min(quarters[1], quarters[3]) < 0.01
        assert min(quarters[0], quarters[2]) > 0.1


def test_radial_planes_have_their_axis_upright(tmp_path):
    """A bright line along the axis is a column of each picture."""
    along = np.array([0.1, 0.9, 0.3]) / np.linalg.norm([0.1, 0.9, 0.3])
    for axes in radial_axes(along, 5):
        grid = plane_grid([0, 0, 0], axes, ([0, 0], [0, 0]), 1.0, fov_mm=20)
        image = np.zeros(grid.shape, np.float32)
        inverse = np.linalg.inv(grid.world_from_voxel)
        for step in range(-8, 9):
            i, j, k = np.rint(inverse @ [*(step * along), 1])[:3].astype(int)
            image[i, j, k] = 0.5 + step / 20
        save_png(tmp_path / "p.png", [image], [grid], (0, 1), shown_upright)
        picture = pictures.imread(tmp_path / "p.png")[..., 0]
        columns = np.flatnonzero(picture.max(0))
        assert len(columns) == 1
        line = picture[:, columns[0]]
        assert (np.diff(line[line > 0]) < 0).all()


def test_the_session_shows_the_t1w_and_has_no_error(files, tmp_path):
    session = session_of(files.scaffold_npz)
    anchor = files.sr.with_name("sub-01_desc-anchor_T1w.nii.gz")
    image = rendered(session, "--like", anchor, tmp_path / "t1w.nii.gz")
    expected = nib.load(anchor).get_fdata()
    inside = image.get_fdata() > 100
    assert inside.sum() > 2000
    assert np.median(np.abs(image.get_fdata() - expected)[inside]) < 0.02 * expected.max()
    ended = render(session, "--like", anchor, "--sd", tmp_path / "sd.nii", "-o", tmp_path / "again.nii")
    assert (ended.exit_code, "found no standard deviation" in ended.output) == (1, True)


def test_a_file_of_an_earlier_version_is_drawn_with_a_warning(files, tmp_path):
    stored = dict(np.load(files.scaffold_npz))
    kept = {k: v for k, v in stored.items() if k.startswith("specific_") and k != "specific_sd"}
    old = tmp_path / "old.npz"
    np.savez(old, schema="atlasgs-appearance-1", shared_amplitudes=stored["shared_amplitudes"], **kept)
    session = session_of(files.scaffold_npz)
    ended = render(old, "--scaffold", session, "--like", files.sr, "-o", tmp_path / "v.nii.gz")
    assert ended.exit_code == 0, ended.output
    assert "old.npz: written by an earlier version" in ended.output
    expected = nib.load(files.sr).get_fdata()
    values = nib.load(tmp_path / "v.nii.gz").get_fdata()
    np.testing.assert_allclose(values[expected > 0], expected[expected > 0], atol=0.1)


PLANE = ("--plane", 0, 0, 0, 0, 0, 1)
USAGE = {
    "no view": ((), "expected --like, --plane, --radial or --spacing"),
    "two views": ((*PLANE, "--radial", 0, 0, 0, 0, 0, 1), "found --plane and --radial, expected one"),
    "like with a spacing": (("--like", "SR", "--spacing", 2), "found --spacing with --like"),
    "a stack of everything": (("--spacing", 2, "--slices", 3), "found --slices with --spacing"),
    "distant planes": (("--radial", 0, 0, 0, 0, 0, 1, "--distance", 3), "found --distance with --radial"),
    "a transform of a plane": ((*PLANE, "--transform", "XFM"), "found --transform with --plane"),
    "nothing to invert": (("--like", "SR", "--invert-transform"), "found --invert-transform with --like"),
    "five numbers": (("--plane", 0, 0, 0, 0, 1), "Invalid value for '--plane'"),
    "another kind of file": ((*PLANE, "-o", "v.mgz"), "expected a name that ends in .nii.gz, .nii, .png"),
    "no folder": ((*PLANE, "-o", "no/v.nii"), "found no folder"),
    "one name for two": ((*PLANE, "--sd", "OUT"), "found one name for --out and --sd"),
    "a profile that is none": ((*PLANE, "--slice-profile", "round"), "neither auto nor box"),
}  # fmt: skip
UNUSABLE = {
    "no normal": (("--plane", 0, 0, 0, 0, 0, 0), "expected three numbers that are not all 0"),
    "too fine": ((*PLANE, "--spacing", 0.0005), "choose a larger spacing"),
    "an empty file": (("--like", "EMPTY"), "EMPTY.nii: not a readable NIfTI image"),
    "a warp": (("--like", "SR", "--transform", "WARP"), "expected a linear transform"),
    "too many slices": ((*PLANE, "--slices", 101, "--fov", 9, "-o", "s.png"), "expected at most 100 in a"),
}  # fmt: skip


@pytest.mark.parametrize(("case", "code"), [(c, 2) for c in USAGE] + [(c, 1) for c in UNUSABLE])
def test_what_cannot_be_is_refused_with_the_remedy(files, tmp_path, monkeypatch, case, code):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY.nii").write_bytes(b"")
    SimpleITK.WriteTransform(SimpleITK.BSplineTransform(3), str(tmp_path / "warp.txt"))
    places = {
        "SR": files.sr, "XFM": files.xfm, "OUT": tmp_path / "out.nii", "EMPTY": tmp_path / "EMPTY.nii",
        "WARP": tmp_path / "warp.txt",
    }  # fmt: skip
    options, message = {**USAGE, **UNUSABLE}[case]
    arguments = [places.get(option, option) for option in options]
    out = [] if "-o" in options else ["-o", tmp_path / "out.nii"]
    ended = render(files.scaffold_npz, *arguments, *out)
    assert (ended.exit_code, message in " ".join(ended.output.split())) == (code, True), ended.output
    assert not (tmp_path / "out.nii").exists()


def test_an_existing_file_stays_without_overwrite(files, tmp_path):
    (tmp_path / "v.nii.gz").write_text("mine")
    assert render(files.scaffold_npz, *PLANE, "-o", tmp_path / "v.nii.gz").exit_code == 2
    assert (tmp_path / "v.nii.gz").read_text() == "mine"
    assert render(files.scaffold_npz, *PLANE, "--overwrite", "-o", tmp_path / "v.nii.gz").exit_code == 0
    assert nib.load(tmp_path / "v.nii.gz").shape[2] == 1


def test_without_its_session_a_target_says_what_it_needs(files, tmp_path):
    lonely = tmp_path / files.scaffold_npz.name
    shutil.copyfile(files.scaffold_npz, lonely)
    with pytest.raises(InputError, match="found no source in it, expected the session's scaffold"):
        load_target(lonely)
    shutil.copyfile(files.scaffold_json, lonely.with_suffix(".json"))
    with pytest.raises(InputError, match=r"found no sub-01/anat/.*npz, expected it in the same dataset"):
        load_target(lonely)
    session = session_of(files.scaffold_npz)
    assert len(load_target(lonely, session).gaussians) > 1000
    shutil.copyfile(session, tmp_path / session.name)
    assert session_of(lonely) == tmp_path / session.name
