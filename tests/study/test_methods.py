"""Each method on a phantom of 32³ voxels: beside cubic interpolation."""

import functools
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve1d

from atlasgs_bids.core.acquisition import profile_sampling
from atlasgs_bids.core.settings import LearnedSettings
from atlasgs_bids.errors import ConfigurationError
from atlasgs_bids.imaging.registration.register import apart_mm
from atlasgs_bids.imaging.volume import voxel_sizes_mm
from atlasgs_bids.restoration.observation import observe_placed
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.methods import eclare
from atlasgs_bids.study.methods.catalogue import method_named
from atlasgs_bids.study.methods.inr import Acquired, Coordinates, Siren
from atlasgs_bids.study.methods.published import method as paper
from atlasgs_bids.study.methods.published.method import Paper
from atlasgs_bids.study.methods.spline import splined
from atlasgs_bids.study.results.cells import CellKey
from atlasgs_bids.study.results.scores import score_regions
from atlasgs_bids.study.session import SessionRunner, plan_sessions
from atlasgs_bids.study.settings import METHODS, MORE_METHODS, NetworkSettings, PaperSettings, StudyConfig
from atlasgs_bids.study.simulation.case import at_defaults
from tests.study.phantom import isotropic_dataset

FACTOR = 3
NETWORK = NetworkSettings(
    width=48, n_hidden=2, first_frequency=15.0, n_steps=300, batch=768, learning_rate=3e-3
)
PAPERS = ("paper", "paper-color", "paper-profile", "paper-persistence")
PAPER = PaperSettings(n_points=3000, n_anchor_steps=200, n_target_steps=150)


def simulated(root, n_voxels, device="cpu", **settings):
    """The FLAIR of one participant in slices of three voxels."""
    dataset = isotropic_dataset(root / "bids", n_voxels=n_voxels)
    study = StudyConfig(dataset.root, root / "out", factors=(FACTOR,), device=device, **settings)
    (session,) = plan_sessions("01", study)
    runner = SessionRunner(session, study, Progress.quiet())
    return runner._simulation(CellKey("01", None, "FLAIR", FACTOR, "cubic"))


@pytest.fixture(scope="module")
def simulation(tmp_path_factory):
    return simulated(tmp_path_factory.mktemp("methods"), 32, network=NETWORK, paper=PAPER)


def psnr(image, simulation):
    return score_regions(image, simulation.reference)["mask"].values["psnr"]


@pytest.fixture(scope="module")
def psnr_of(simulation):
    """PSNR of a method's result, each made once."""
    return functools.cache(lambda name: psnr(method_named(name).restore(simulation.case).image, simulation))


@pytest.fixture(scope="module")
def cubic_psnr(psnr_of):
    return psnr_of("cubic")


def test_a_displaced_origin_is_the_image_moved_by_a_voxel(simulation):
    """Slices of three voxels, each taken for its first one: everything lies a voxel too low."""
    axis = simulation.case.slice_axis
    true, moved = (method_named(name).restore(simulation.case).image for name in ("cubic", "cubic-displaced"))
    inside = np.roll(simulation.case.wanted, -1, axis) & simulation.case.wanted
    np.testing.assert_allclose(moved[inside], np.roll(true, -1, axis)[inside], atol=1e-3 * true.max())


def test_a_spline_through_the_profile_gives_the_slices_and_is_between_cubic_and_the_graph(
    simulation, psnr_of, cubic_psnr
):
    case = simulation.case
    profile, cell_mm = case.placed.profile(case.run), voxel_sizes_mm(case.grid.world_from_voxel).min()
    lines = splined(case.placed.acquired, case.slice_axis, profile, float(cell_mm))
    spacing_mm = voxel_sizes_mm(case.placed.acquired.world_from_voxel)[case.slice_axis]
    n_slices = case.placed.acquired.data.shape[case.slice_axis]
    sampling = profile_sampling(n_slices, spacing_mm, profile.offsets_mm, profile.cumulative, cell_mm)
    seen = np.moveaxis(np.tensordot(sampling.weights, lines.data, (1, case.slice_axis)), 0, case.slice_axis)
    np.testing.assert_allclose(seen, case.placed.acquired.data, atol=0.01 * seen.max())
    assert cubic_psnr + 0.3 < psnr_of("spline") < psnr_of("graph") - 1


@pytest.mark.parametrize("name", ["graph", "offset", "joint"])
def test_what_knows_the_t1w_is_far_above_cubic(name, psnr_of, cubic_psnr):
    assert psnr_of(name) > cubic_psnr + 5


def test_own_knows_the_slices_and_not_the_t1w(psnr_of, cubic_psnr):
    """By 2.1 dB here, 1.1 to 4.3 dB on a real head (docs/study.md): painted labels limit a lattice."""
    assert cubic_psnr < psnr_of("own") < psnr_of("graph") - 1.5


def test_learned_is_above_cubic(simulation, cubic_psnr):
    """A tiny network: 32³ voxels are little to learn from."""
    run = simulation.case.run
    tiny = LearnedSettings(
        width=16, n_blocks=2, n_first_steps=50, n_cycles=1, n_cycle_steps=50, batch_voxels=5000
    )
    case = replace(simulation.case, run=replace(run, core=replace(run.core, learned=tiny)))
    assert psnr(method_named("learned").restore(case).image, simulation) > cubic_psnr + 2


@pytest.mark.parametrize("name", ["inr", "inr-t1"])
def test_a_network_of_coordinates_explains_the_slices(name, simulation, cubic_psnr):
    image = method_named(name).restore(simulation.case).image
    assert psnr(image, simulation) > cubic_psnr - 1
    again, _ = simulation.degradation.slices(image, np.eye(4))
    inside = simulation.slices_mask
    error = (again - simulation.clean)[inside]
    assert error.std() < 0.25 * simulation.clean[inside].std()  # 94 % of the variance


def test_the_networks_acquisition_is_the_operators(simulation):
    """The weighted cells of a voxel are that voxel's row of A: on any lattice image, the same prediction."""
    case = simulation.case
    observation = observe_placed(case.placed, case.scaffold.anchor, case.scaffold.gaussians, case.run)
    acquired = Acquired(observation, 1.0)
    image = torch.randn(observation.acquisition.shape_in)
    expected = observation.acquisition.forward(image)[tuple(acquired.voxels.T)]
    cells, weights = acquired.cells_of(acquired.voxels)
    predicted = (image[tuple(cells.unbind(-1))] * weights).sum(1)
    torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=1e-5)


def test_coordinates_span_minus_one_to_one(simulation):
    coordinates = Coordinates.of(simulation.case)
    anchor = simulation.case.scaffold.anchor
    world = torch.from_numpy(anchor.volume.world_from_voxel).float()
    ends = coordinates.normalised(torch.from_numpy(np.argwhere(anchor.support)).float(), world)
    assert float(ends.abs().max()) == pytest.approx(1, abs=1e-5)
    assert ends.shape[1] == 3


def test_sirens_layers_keep_the_spread_of_their_signal():
    """Pre-activations of hidden layers have a standard deviation near 1 (Sitzmann 2020, theorem 1.8)."""
    torch.manual_seed(0)
    network = Siren(NetworkSettings(), 1).requires_grad_(False)
    x = torch.rand(4000, 3) * 2 - 1
    for layer, frequency in zip(network.layers, network.frequencies, strict=True):
        before = frequency * layer(x)
        x = torch.sin(before)
    assert 0.7 < float(before.std()) < 1.5


@pytest.mark.parametrize(
    "name", [PAPERS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in PAPERS[1:])]
)
def test_the_published_method_is_above_cubic(name, psnr_of, cubic_psnr):
    """Far from its 10,000 steps, and yet nearer to the truth than interpolation."""
    assert psnr_of(name) > cubic_psnr + 2


def test_the_t1ws_gaussians_are_fitted_once_and_the_seed_decides(simulation):
    restored = paper.METHOD.restore(simulation.case)
    (stored,) = Path(simulation.case.shared_dir).glob("sub-01_paper-*.npz")
    assert float(np.load(stored, allow_pickle=False)["psnr_db"]) > 20
    before = stored.stat().st_mtime_ns
    again = paper.METHOD.restore(simulation.case)
    assert stored.stat().st_mtime_ns == before
    assert again.seconds_shared > 0
    np.testing.assert_array_equal(again.image, restored.image)


def test_latents_and_decoder_bring_the_slices_closer_step_by_step(simulation):
    """From a random decoder: what the slices are off by falls with the steps."""
    errors = []
    for n_steps in (2, 60):
        image = Paper({"n_target_steps": n_steps}).restore(simulation.case).image
        again, _ = simulation.degradation.slices(image, np.eye(4))
        errors.append(np.abs(again - simulation.clean)[simulation.slices_mask].mean())
    assert errors[1] < 0.6 * errors[0]


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory):
    settings = PaperSettings(n_points=8000, n_anchor_steps=1500, n_target_steps=1500)
    root = tmp_path_factory.mktemp("gpu")
    return simulated(root, 32, "cuda:0", network=NETWORK, paper=settings)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["graph", "inr", "inr-t1", *PAPERS])
def test_on_a_gpu(name, on_gpu):
    method = method_named(name)
    if name == "paper-persistence":
        pytest.importorskip("gudhi")
    assert method.missing(on_gpu.case.study, "cuda:0") is None
    cubic = psnr(method_named("cubic").restore(on_gpu.case).image, on_gpu)
    assert psnr(method.restore(on_gpu.case).image, on_gpu) > cubic - (1 if "inr" in name else -2)


def test_what_cannot_run_says_why(simulation, monkeypatch, tmp_path):
    study = simulation.case.study
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "gudhi" in str(method_named("paper-persistence").missing(study, "cpu"))
    assert method_named("paper").missing(study, "cpu") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "run-eclare" in str(method_named("eclare").missing(study, "cuda:0"))


def test_eclare_is_a_program_that_is_called(simulation, monkeypatch, tmp_path, cubic_psnr):
    """A stand-in with ECLARE's arguments, which doubles the slices: its result is brought to the grid."""
    program = tmp_path / eclare.COMMAND
    program.write_text(
        f"#!{__import__('sys').executable}\n"
        "import sys, numpy as np, nibabel as nib\n"
        "given = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "image = nib.load(given['--in-fpath'])\n"
        "affine = image.affine @ np.diag([1, 1, 0.5, 1]); affine[:3, 3] -= image.affine[:3, 2] / 4\n"
        "nib.save(nib.Nifti1Image(np.repeat(np.asarray(image.dataobj), 2, axis=2), affine),\n"
        "         given['--out-dir'] + '/slices_eclare.nii.gz')\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert eclare.missing(simulation.case.study, "cuda:0") is None
    assert "GPU" in str(eclare.missing(simulation.case.study, "cpu"))
    image = eclare.restore(simulation.case).image
    assert abs(psnr(image, simulation) - cubic_psnr) < 3


def test_eclare_is_told_the_profile_that_was_simulated(tmp_path):
    """The truth, blurred by the kernel along the slices' axis, at the slices' centres: the slices."""
    simulation = simulated(tmp_path, 24, n_gaussians=2000, degradation="box")
    kernel = eclare.blur_kernel(simulation.case)
    assert len(kernel) % 2 == 1
    reference, axis = simulation.reference, simulation.case.slice_axis
    blurred = convolve1d(reference.truth, kernel, axis=axis)
    centres = np.arange(simulation.clean.shape[axis]) * FACTOR + FACTOR // 2
    predicted = np.take(blurred, centres, axis=axis)
    np.testing.assert_allclose(predicted, simulation.clean, rtol=1e-4, atol=0.05)


def test_every_name_is_a_method():
    for name in (*METHODS, *MORE_METHODS):
        assert callable(method_named(name).restore)
    assert method_named("paper-color").changes == {"latent": 1}
    for method in (paper.COLOR, paper.PROFILE, paper.PERSISTENCE):
        assert replace(PaperSettings(), **method.changes) != PaperSettings()


def test_at_defaults_position_and_profile_are_found(tmp_path):
    """The slices' header is 2 mm off: cubic interpolation that believes it is worse, whoever looks is not."""
    simulation = simulated(tmp_path, 32)
    known = simulation.case
    moved = known.placed.registration.target_from_anchor.copy()
    moved[:3, 3] += [1.2, 0.0, 1.6]
    misled = replace(known, placed=known.placed.at(moved))
    found = at_defaults(misled)
    points_mm = known.scaffold.guides.points_mm
    assert apart_mm(moved, simulation.target_from_anchor, points_mm) == pytest.approx(2.0)
    position = found.placed.registration.target_from_anchor
    assert apart_mm(position, simulation.target_from_anchor, points_mm) < 0.3
    assert found.placed.calibration.found_profile is not None
    cubic = method_named("cubic")
    assert psnr(cubic.restore(found).image, simulation) > psnr(cubic.restore(misled).image, simulation) + 1
    graph = method_named("graph").restore(found)
    assert psnr(graph.image, simulation) > psnr(cubic.restore(known).image, simulation) + 3
    assert graph.model is not None


def test_pixels_of_two_millimetres_are_restored_at_the_t1ws(tmp_path):
    simulation = simulated(tmp_path, 32, in_plane_mm=4.5)  # voxels of 2.25 mm
    assert simulation.case.placed.acquired.data.shape == (16, 16, 10)
    results = {name: method_named(name).restore(simulation.case).image for name in ("cubic", "graph")}
    assert results["graph"].shape == (32, 32, 32)
    assert psnr(results["graph"], simulation) > psnr(results["cubic"], simulation) + 3
    assert "--in-plane" in paper.METHOD.missing(simulation.case.study, "cpu")


def test_pixels_that_are_no_multiple_of_the_voxels_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="expected a multiple"):
        simulated(tmp_path, 16, in_plane_mm=6.0)
