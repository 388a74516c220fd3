"""Images in, images out: every form of input, wrong ones, and the same result as the command line's."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import atlasgs_bids as ag
from atlasgs_bids.core.settings import AppearanceSettings, CoreSettings, ScaffoldSettings
from atlasgs_bids.errors import ConfigurationError, InputError
from tests.bids_datasets import THICK_MM, Dataset, head
from tests.runs import FAST, atlasgs, outputs

SETTINGS = ag.Settings(
    device="cpu",
    registration="header",
    core=CoreSettings(
        scaffold=ScaffoldSettings(n_gaussians=1500, n_steps=2),
        appearance=AppearanceSettings(regularization=0.1, max_iterations=10),
    ),
)
"""Those of tests/runs.py."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return Dataset.create(tmp_path_factory.mktemp("restore") / "bids").add_participant("01", "FLAIR", "T2w")


@pytest.fixture(scope="module")
def scaffold(dataset):
    return ag.fit_scaffold(dataset.path("01", "T1w"), SETTINGS)


@pytest.fixture(scope="module")
def result(scaffold, dataset):
    return ag.restore(scaffold, dataset.path("01", "FLAIR"), thickness_mm=9, settings=SETTINGS)


def test_the_images_are_those_of_the_command_line(result, dataset, tmp_path):
    code, _, log = atlasgs(dataset.root, tmp_path / "out")
    assert code == 0, log
    files = outputs(tmp_path / "out", "01", "FLAIR")
    for image, path in (
        (result.image, files.sr),
        (result.sd, files.srstd),
        (result.simulated, files.simulated),
        (result.fov, files.fov_mask),
    ):
        stored = nib.load(path)
        np.testing.assert_allclose(image.affine, stored.affine, atol=1e-5)
        np.testing.assert_allclose(image.get_fdata(), stored.get_fdata(), rtol=1e-4, atol=0.05)
    row = dict(zip(*(line.split("\t") for line in files.metrics_tsv.read_text().splitlines()), strict=True))
    for name in ("consistency_rms", "noise_sd", "fov_coverage", "sd_median", "regularization"):
        assert result.metrics[name] == pytest.approx(float(row[name]), rel=1e-3)
    assert FAST, "the settings above are those of these options"


def forms(path):
    image = nib.load(path)
    return {
        "path": path,
        "text": str(path),
        "nibabel": image,
        "array": (np.asarray(image.dataobj), image.affine),
    }


@pytest.mark.parametrize("form", ["path", "text", "nibabel", "array"])
def test_every_form_of_input_gives_the_same(result, dataset, form):
    t1w, flair = (forms(dataset.path("01", suffix))[form] for suffix in ("T1w", "FLAIR"))
    again = ag.restore(t1w, flair, thickness_mm=9, settings=SETTINGS)
    np.testing.assert_allclose(again.image.get_fdata(), result.image.get_fdata(), rtol=1e-4, atol=0.05)
    np.testing.assert_allclose(again.image.affine, result.image.affine, atol=1e-5)


def test_several_targets_are_a_list_and_several_stacks_one_target(scaffold, dataset):
    flair, t2w = dataset.path("01", "FLAIR"), dataset.path("01", "T2w")
    both = ag.restore(scaffold, flair, t2w, thickness_mm=[9, 8], settings=SETTINGS)
    assert [own.metrics["slice_thickness"] for own in both] == [9, 8]
    joined = ag.restore(scaffold, [flair, flair], thickness_mm=9, settings=SETTINGS)
    assert joined.metrics["n_stacks"] == 2
    assert len(joined.simulated) == len(joined.registration) == 2


def test_rendering_on_its_own_grid_gives_the_image(result):
    again = result.render(result.image)
    np.testing.assert_allclose(again.get_fdata(), result.image.get_fdata(), atol=1e-3)


def test_the_error_of_a_view_is_that_of_the_image(result):
    sd, expected = (image.get_fdata() for image in (result.render_sd(result.image), result.sd))
    np.testing.assert_array_equal(sd == 0, expected == 0)
    apart = np.abs(sd / np.where(expected > 0, expected, 1) - 1)[expected > 0]
    # Here each Gaussian stands for several voxels, so that it cannot follow every one.
    assert np.median(apart) < 0.1


def test_a_plane_of_the_model_is_a_slice_of_the_image(result):
    point = result.image.affine @ [12, 12, 10, 1]
    plane = result.render(result.model.plane(point[:3], (0, 0, 1), 3.0, fov_mm=30))
    i, j, k = np.rint(np.linalg.inv(result.image.affine) @ plane.affine[:, 3])[:3].astype(int)
    expected = result.image.get_fdata()[i : i + 11, j : j + 11, k]
    np.testing.assert_allclose(plane.get_fdata()[..., 0], expected, atol=0.01)


def test_rendering_elsewhere_is_no_resampling(result):
    fine = result.image.affine @ np.diag([0.5, 0.5, 0.5, 1])
    shape = tuple(2 * n for n in result.image.shape)
    image = result.render((np.empty(shape), fine))
    assert image.shape == shape
    # Every second voxel lies where one of the result does.
    apart = np.abs(image.get_fdata()[::2, ::2, ::2] - result.image.get_fdata())
    assert np.median(apart[result.image.get_fdata() > 100]) < 1e-2


def test_nothing_is_written(scaffold, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(dataset.root.rglob("*"))
    ag.restore(scaffold, dataset.path("01", "FLAIR"), thickness_mm=9, settings=SETTINGS)
    assert list(tmp_path.iterdir()) == []
    assert sorted(dataset.root.rglob("*")) == before


def test_without_a_thickness_the_spacing_counts_and_a_warning_says_so(scaffold, dataset, caplog):
    found = ag.restore(scaffold, dataset.path("01", "FLAIR"), settings=SETTINGS)
    assert found.metrics["slice_thickness"] == pytest.approx(9)
    assert any("no SliceThickness" in text for text in caplog.messages)


def test_progress_can_be_switched_on(scaffold, dataset, capfd, caplog):
    caplog.set_level("INFO", "atlasgs_bids")
    ag.restore(scaffold, dataset.path("01", "FLAIR"), thickness_mm=9, settings=SETTINGS)
    assert not any("appearance" in text for text in caplog.messages)
    ag.restore(scaffold, dataset.path("01", "FLAIR"), thickness_mm=9, settings=SETTINGS, progress=True)
    assert any("sub-01_FLAIR.nii.gz: appearance: done" in text for text in caplog.messages)


def test_a_brain_mask_is_the_foreground(dataset):
    data, affine = head("T1w")
    brain = np.zeros(data.shape, np.uint8)
    brain[6:18, 6:18, 6:18] = 1
    scaffold = ag.fit_scaffold((data, affine), SETTINGS, brain_mask=(brain, affine))
    np.testing.assert_array_equal(scaffold.anchor.foreground, brain > 0)
    assert scaffold.anchor.is_brain


FAR_AWAY = np.array([[0, 0, 0, 900.0], *np.zeros((3, 4))])
WRONG = {
    "a number": (3, "target 1: a int, expected a nibabel NIfTI image"),
    "an array without affine": (np.ones((8, 8, 4)), r"a ndarray of shape \(8, 8, 4\), expected"),
    "complex numbers": ((np.ones((8, 8, 4), complex), np.eye(4)), "a tuple, expected"),
    "a missing file": (Path("no/FLAIR.nii.gz"), "FLAIR.nii.gz: no such file"),
    "a series": ((np.random.default_rng(0).random((8, 8, 4, 3)), np.diag([3, 3, 9, 1])), "expected one 3-D"),
    "a constant": ((np.ones((8, 8, 4)), np.diag([3, 3, 9, 1])), "every voxel is 1"),
    "metres": ((np.random.default_rng(0).random((8, 8, 4)), np.diag([3000, 3000, 9000, 1])), "voxels of 3e"),
    "an empty list": ([], "expected the images of its stacks"),
    "elsewhere": ((head("FLAIR", THICK_MM)[0], head("FLAIR", THICK_MM)[1] + FAR_AWAY), "cover 0.0% of the"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_has_the_errors_of_the_command_line(scaffold, case):
    target, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        ag.restore(scaffold, target, thickness_mm=9, settings=SETTINGS)


def test_no_target_and_thicknesses_that_do_not_fit(scaffold, dataset):
    with pytest.raises(InputError, match="found no target"):
        ag.restore(scaffold, settings=SETTINGS)
    with pytest.raises(InputError, match="2 slice thicknesses for 1 targets"):
        ag.restore(scaffold, dataset.path("01", "FLAIR"), thickness_mm=[5, 4], settings=SETTINGS)
    with pytest.raises(ConfigurationError, match="expected auto, box, gaussian"):
        ag.restore(scaffold, dataset.path("01", "FLAIR"), settings=ag.Settings("cpu", slice_profile="sinc"))
