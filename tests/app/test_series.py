"""DWI and ASL from BIDS to results through the real command, against a known truth."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.registration.itk_files import read_itk_transform
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.runtime.files import load_tsv
from tests.acquisitions import (
    ANATOMY_DIRECTIONS,
    B_VALUES,
    M0,
    SIZE_MM,
    Acquired,
    diffusion_series,
    fsl_directions,
    labelling_series,
    world_directions,
)
from tests.bids_datasets import THICK_MM, Dataset
from tests.bids_datasets import head as small_head
from tests.imaging.phantom import T1W, acquire, head, rigid
from tests.runs import finished
from tests.validation import validator_errors

CENTRE = np.array([0.0, -20.0, 5.0])
DWI_MOTION = rigid([4, -3, 5], [3, -4, 2], CENTRE)
ASL_MOTION = rigid([-3, 2, 4], [-2, 3, 4], CENTRE)
NOISE = 1.0
CONTEXT = ("control", "label") * 2


@dataclass(frozen=True)
class Run:
    root: Path
    finished: subprocess.CompletedProcess
    dwi: Acquired
    asl: Acquired
    anchor: Volume

    def path(self, datatype: str, name: str) -> Path:
        return self.root / "out" / "sub-01" / datatype / f"sub-01_{name}"

    def load(self, datatype: str, name: str) -> nib.Nifti1Image:
        return nib.load(self.path(datatype, name))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A participant whose headers know nothing of the movement."""
    root = tmp_path_factory.mktemp("series")
    dataset = Dataset.create(root / "bids")
    anchor = head(T1W, SIZE_MM, noise=2.0)
    dwi = diffusion_series(DWI_MOTION, 8.0, NOISE)
    asl = labelling_series(ASL_MOTION, 8.0, NOISE, n_pairs=2)
    m0 = acquire(
        head(M0, SIZE_MM), asl.data.shape[:3], asl.world_from_voxel, np.linalg.inv(ASL_MOTION), noise=NOISE
    )
    bvecs = fsl_directions(ANATOMY_DIRECTIONS @ DWI_MOTION[:3, :3].T, dwi.world_from_voxel)
    dataset.add("01", "T1w", data=anchor.data, world_from_voxel=anchor.world_from_voxel)
    dataset.add_diffusion("01", dwi.data, dwi.world_from_voxel, B_VALUES, bvecs)
    dataset.add_labelling("01", asl.data, asl.world_from_voxel, CONTEXT)
    dataset.add(
        "01", "m0scan", data=m0.data, world_from_voxel=m0.world_from_voxel, voxel_mm=(4.0, 4.0, 8.0),
        sidecar={"RepetitionTimePreparation": 6.0, "EchoTime": 0.012},
    )  # fmt: skip
    return Run(root, restored(root, "--scaffold-steps", "8", "--tolerance", "1e-3"), dwi, asl, anchor)


def restored(root, *options):
    return finished(
        "atlasgs_bids.app.cli", root / "bids", root / "out", "participant", "--device", "cpu", *options
    )


def inner_brain(anchor):
    """Away from the edge, where interpolation of a moved stack and of a grid differ."""
    fluid_and_tissue = head(M0, SIZE_MM).data > 60
    return ndimage.binary_erosion(fluid_and_tissue, iterations=2)


def test_every_series_is_done(run):
    assert run.finished.returncode == 0, run.finished.stderr


def test_output_passes_the_bids_validator(run):
    assert validator_errors(run.root / "out") == []


@pytest.mark.slow
def test_output_with_sessions_passes_the_bids_validator(tmp_path):
    dataset = Dataset.create(tmp_path / "bids").add_participant("01", session="a")
    data, affine = small_head("T2w", THICK_MM)
    series = np.stack([data, 0.5 * data], axis=3)
    dataset.add_diffusion("01", series, affine, B_VALUES[:2], ANATOMY_DIRECTIONS[:2], session="a")
    dataset.add_labelling("01", series, affine, CONTEXT[:2], session="a")
    options = ("--registration", "header", "--n-gaussians", "1500", "--scaffold-steps", "2")
    finished = restored(tmp_path, *options, "--regularization", "0.1", "--skip-bids-validation")
    assert finished.returncode == 0, finished.stderr
    assert len(list((tmp_path / "out").glob("sub-01/ses-a/*/*_desc-sr_*.nii.gz"))) == 3
    assert validator_errors(tmp_path / "out") == []


def test_series_keep_their_volumes_on_the_anchors_grid(run):
    for datatype, suffix, acquired in (("dwi", "dwi", run.dwi), ("perf", "asl", run.asl)):
        result = run.load(datatype, f"space-T1w_res-iso_desc-sr_{suffix}.nii.gz")
        assert result.shape == (*run.anchor.data.shape, acquired.data.shape[3])
        assert result.get_data_dtype() == np.float32
        np.testing.assert_allclose(result.affine, run.anchor.world_from_voxel, atol=1e-4)
        for name in ("simulated", "residual"):
            native = run.load(datatype, f"desc-{name}_{suffix}.nii.gz")
            assert native.shape == acquired.data.shape
            np.testing.assert_allclose(native.affine, acquired.world_from_voxel, atol=1e-4)


def test_every_diffusion_volume_beats_interpolation(run):
    result = run.load("dwi", "space-T1w_res-iso_desc-sr_dwi.nii.gz").get_fdata()
    mask = inner_brain(run.anchor)
    for index, truth in enumerate(run.dwi.truth):
        acquired = Volume(run.dwi.data[..., index], run.dwi.world_from_voxel)
        cubic = resample(acquired, run.anchor.grid, DWI_MOTION)
        gained_db = psnr_db(truth.data, result[..., index], mask) - psnr_db(truth.data, cubic, mask)
        assert gained_db > 1.0


@pytest.mark.parametrize(
    ("datatype", "name", "motion"),
    [("dwi", "from-dwi", DWI_MOTION), ("perf", "from-asl", ASL_MOTION), ("perf", "from-m0scan", ASL_MOTION)],
)
def test_registration_of_mean_b0_and_m0(run, datatype, name, motion):
    found = read_itk_transform(run.path(datatype, f"{name}_to-T1w_mode-image_xfm.txt"))
    points = CENTRE + 50 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    apart = points @ (found - motion)[:3, :3].T + (found - motion)[:3, 3]
    assert np.linalg.norm(apart, axis=1).mean() < SIZE_MM / 8


def test_the_asl_series_shares_the_m0s_transform(run):
    own, m0 = (
        read_itk_transform(run.path("perf", f"from-{name}_to-T1w_mode-image_xfm.txt"))
        for name in ("asl", "m0scan")
    )
    np.testing.assert_array_equal(own, m0)


def test_directions_turn_with_the_head_into_the_outputs_axes(run):
    image = run.path("dwi", "space-T1w_res-iso_desc-sr_dwi.nii.gz")
    stem = image.name.removesuffix(".nii.gz")
    bvecs = np.loadtxt(image.with_name(f"{stem}.bvec")).T
    np.testing.assert_array_equal(np.loadtxt(image.with_name(f"{stem}.bval")), B_VALUES)
    in_world = world_directions(bvecs, nib.load(image).affine)
    cosines = (in_world[1:] * ANATOMY_DIRECTIONS[1:]).sum(1)
    assert np.degrees(np.arccos(np.clip(cosines, -1, 1))).max() < 0.3
    np.testing.assert_array_equal(bvecs[0], 0)
    # The simulated slices lie on the acquired grid and keep its directions.
    native = run.path("dwi", "desc-simulated_dwi.bvec")
    source = run.root / "bids" / native.relative_to(run.root / "out").parent
    acquired = next(source.glob("*.bvec"))
    np.testing.assert_allclose(np.loadtxt(native), np.loadtxt(acquired), atol=1e-6)


def test_asl_context_is_kept(run):
    for name in ("space-T1w_res-iso_desc-sr", "desc-simulated", "desc-residual"):
        rows = load_tsv(run.path("perf", f"{name}_aslcontext.tsv"))
        assert tuple(row["volume_type"] for row in rows) == CONTEXT


def difference(data):
    return data[..., 0::2].mean(-1) - data[..., 1::2].mean(-1)


def test_the_perfusion_difference_is_conserved(run):
    """Brought back through A, the result's difference is the acquired one to within the noise."""
    simulated = run.load("perf", "desc-simulated_asl.nii.gz").get_fdata()
    explained = run.load("perf", "desc-residual_asl.nii.gz").get_fdata()[..., 0] != 0
    seen, predicted = difference(run.asl.data)[explained], difference(simulated)[explained]
    # Two pairs: the noise of the difference is that of one volume.
    assert np.sqrt(np.mean((seen - predicted) ** 2)) < 1.2 * NOISE
    assert predicted.mean() == pytest.approx(seen.mean(), rel=0.02)
    (row,) = load_tsv(run.path("perf", "mod-asl_space-T1w_res-iso_desc-sr_metrics.tsv"))
    assert 0 < float(row["difference_to_noise"]) < 1.5
    assert row["n_volumes"] == "4"
    assert float(row["seconds_calibration"]) > 0


def test_the_result_shows_the_true_perfusion(run):
    result = run.load("perf", "space-T1w_res-iso_desc-sr_asl.nii.gz").get_fdata()
    truth = run.asl.truth[0].data - run.asl.truth[1].data
    mask = inner_brain(run.anchor)
    found = difference(result)
    acquired = Volume(difference(run.asl.data).astype(np.float32), run.asl.world_from_voxel)
    cubic = resample(acquired, run.anchor.grid, ASL_MOTION)
    correlations = [np.corrcoef(image[mask], truth[mask])[0, 1] for image in (found, cubic)]
    assert correlations[0] > correlations[1] + 0.05
    assert found[mask].mean() == pytest.approx(truth[mask].mean(), rel=0.05)


@pytest.mark.parametrize(
    ("datatype", "suffix", "kinds", "of_volume"),
    [("dwi", "dwi", ["b0", "b1000"], [0, 1, 1, 1, 1]), ("perf", "asl", ["control", "label"], [0, 1, 0, 1])],
)
def test_a_standard_deviation_for_each_kind_of_volume(run, datatype, suffix, kinds, of_volume):
    names = [f"space-T1w_res-iso_desc-{name}_{suffix}" for name in ("srstd", "srnoisestd")]
    sd, noise_sd = (run.load(datatype, f"{name}.nii.gz").get_fdata() for name in names)
    assert sd.shape == noise_sd.shape == (*run.anchor.data.shape, len(kinds))
    mask = inner_brain(run.anchor)
    assert (sd[mask] >= noise_sd[mask]).all()
    assert (noise_sd[mask] > 0).all()
    if suffix == "dwi":
        assert np.loadtxt(run.path("dwi", f"{names[0]}.bval")).tolist() == [0, 1000]
    else:
        context = load_tsv(run.path("perf", f"{names[0].removesuffix('_asl')}_aslcontext.tsv"))
        assert [row["volume_type"] for row in context] == kinds
    for name in names:
        sidecar = json.loads(run.path(datatype, f"{name}.json").read_text())
        assert (sidecar["Kinds"], sidecar["MapOfVolume"]) == (kinds, of_volume)
    (row,) = load_tsv(run.path(datatype, f"mod-{suffix}_space-T1w_res-iso_desc-sr_metrics.tsv"))
    assert float(row["sd_median"]) > float(row["sd_noise_median"]) > 0


def test_a_series_without_uncertainty_leaves_none_of_an_earlier_run_behind(tmp_path):
    dataset = Dataset.create(tmp_path / "bids")
    dataset.add("01", "T1w")
    data, affine = small_head("T2w", THICK_MM)
    series = np.stack([data, 0.5 * data], axis=3)
    dataset.add_diffusion("01", series, affine, B_VALUES[:2], ANATOMY_DIRECTIONS[:2])
    options = ("--registration", "header", "--slice-profile", "box", "--n-gaussians", "1500", "--no-viewer")
    options += ("--scaffold-steps", "2", "--regularization", "0.1", "--skip-bids-validation")
    for more, n_files in ((), 8), (("--overwrite", "--no-uncertainty"), 0):
        done = restored(tmp_path, *options, *more)
        assert done.returncode == 0, done.stderr
        assert len(list((tmp_path / "out").rglob("*std_dwi.*"))) == n_files
        assert validator_errors(tmp_path / "out") == []
        (table,) = (tmp_path / "out").rglob("*desc-sr_metrics.tsv")
        assert (load_tsv(table)[0]["sd_median"] != "n/a") == (n_files > 0)


def test_figures_of_each_shell_and_of_the_difference(run):
    folder = run.root / "out" / "sub-01" / "figures"
    names = {path.name.split("desc-")[1] for path in folder.iterdir()}
    assert names == {
        "sr_dwi.png", "b0_dwi.png", "b1000_dwi.png",
        "sr_asl.png", "control_asl.png", "label_asl.png", "difference_asl.png", "sr_m0scan.png",
        "calibration_dwi.png", "calibration_asl.png", "calibration_m0scan.png",
        "thumbnail_dwi.jpg", "thumbnail_asl.jpg", "thumbnail_m0scan.jpg",
    }  # fmt: skip


def test_sidecars_say_what_was_used(run):
    sidecar = json.loads(run.path("perf", "space-T1w_res-iso_desc-sr_asl.json").read_text())
    assert sidecar["ArterialSpinLabelingType"] == "PCASL"
    assert "SliceTiming" not in sidecar
    assert sidecar["BiasCorrected"] is False
