"""A series with the learned prior: the network sees means alone, differences between volumes stay linear."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atlasgs_bids.core.settings import AppearanceSettings, CoreSettings, LearnedSettings, ScaffoldSettings
from atlasgs_bids.imaging.series import SeriesKinds
from atlasgs_bids.restoration.coarser import coarser_scaffold
from atlasgs_bids.restoration.series import fit_series
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.progress import Progress
from tests.acquisitions import diffusion_series, labelling_series
from tests.restoration.scenes import brain_scaffold, placed_series

SIZE_MM, SPACING_MM, NOISE = 4, 12.0, 2.0
SETTINGS = RestorationSettings(
    device="cpu",
    prior="learned",
    core=CoreSettings(
        # Tight, so that what is linear in exact arithmetic is so here.
        appearance=AppearanceSettings(regularization_limits=(0.1, 0.1), tolerance=1e-4, n_probes=1),
        # Too few steps to be of use; what is tested holds for any network.
        learned=LearnedSettings(
            width=8, n_blocks=1, n_first_steps=20, n_cycles=1, n_cycle_steps=20, batch_voxels=4000
        ),
    ),
)
DIFFUSION = SeriesKinds(("b0", *["b1000"] * 4), ("b0", *["b1000"] * 4), (0,))
LABELLING = SeriesKinds(("control", "label") * 2, ("control",) * 4, (0, 1, 2, 3))


@pytest.fixture(scope="module")
def scaffold():
    return brain_scaffold(SIZE_MM, SETTINGS)


def fitted(acquired, kinds, scaffold, settings=SETTINGS):
    """The fit, and the amplitudes (k, n) of all volumes."""
    series, placed = placed_series(acquired, kinds, SPACING_MM)
    with Progress() as progress:
        fit = fit_series(placed, series, kinds, scaffold, settings, progress)
    return fit, torch.stack([own for own, _ in fit.solved()])


def apart(found, expected):
    """Relative distance."""
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def diffusion(scaffold):
    return fitted(diffusion_series(np.eye(4), SPACING_MM, NOISE), DIFFUSION, scaffold)


@pytest.fixture(scope="module")
def labelling():
    return labelling_series(np.eye(4), SPACING_MM, NOISE, n_pairs=2)


def test_the_mean_of_the_volumes_is_the_learned_fit_of_their_mean(diffusion):
    fit, amplitudes = diffusion
    assert set(fit.contrasts) == {"b0", "b1000"}
    shell = fit.contrasts["b1000"]
    assert apart(amplitudes[1:].mean(0), shell.amplitudes) < 1e-3
    assert apart(amplitudes[1], amplitudes[2]) > 0.05


def test_a_volume_alone_in_its_contrast_is_the_learned_fit_and_the_reference(diffusion):
    fit, amplitudes = diffusion
    reference = fit.reference.fit.appearance
    assert reference.trust is not None
    torch.testing.assert_close(amplitudes[0], reference.amplitudes, rtol=0, atol=0)


def test_one_network_serves_all_contrasts(diffusion):
    """Each contrast has its own expectation: the shell's resembles the shell, not the b0."""
    fit, _ = diffusion
    b0, shell = (fit.contrasts[name].amplitudes for name in ("b0", "b1000"))
    assert float(shell.mean()) < 0.6 * float(b0.mean())


def test_control_minus_label_is_that_of_the_graph_prior(scaffold, labelling):
    """The network has no part in a difference, so perfusion is neither made up nor lost."""
    _, learned = fitted(labelling, LABELLING, scaffold)
    _, graph = fitted(labelling, LABELLING, scaffold, replace(SETTINGS, prior="graph"))
    assert apart(learned[0], graph[0]) > 0.01
    assert apart(*(volumes[0::2].mean(0) - volumes[1::2].mean(0) for volumes in (learned, graph))) < 0.005


def test_too_little_to_learn_from_falls_back_to_the_graph(scaffold, labelling, caplog):
    bare = replace(labelling, data=labelling.data[20:26, 20:24, 3:6])
    world = labelling.world_from_voxel.copy()
    world[:3, 3] += world[:3, :3] @ [20, 20, 3]
    fit, amplitudes = fitted(replace(bare, world_from_voxel=world), LABELLING, scaffold)
    assert "the graph prior is used" in caplog.text
    assert fit.contrasts["control"].mean is None
    assert torch.isfinite(amplitudes).all()


def test_pixels_far_coarser_than_the_anchor_get_gaussians_to_match(scaffold):
    """Two along a pixel; the session's where that is no fewer, or where their number was asked for."""
    _, placed = placed_series(diffusion_series(np.eye(4), SPACING_MM, NOISE), DIFFUSION, SPACING_MM)

    def made(pixel_mm, settings=SETTINGS):
        geometry = replace(placed.source.geometry, acquired_in_plane_mm=(pixel_mm, pixel_mm + 1.0))
        seen = replace(placed, source=replace(placed.source, geometry=geometry))
        return coarser_scaffold(seen, scaffold, settings, Progress.quiet())

    assert made(4.0) is scaffold
    asked = replace(SETTINGS.core, scaffold=ScaffoldSettings(n_gaussians=10_000))
    assert made(12.0, replace(SETTINGS, core=asked)) is scaffold
    fewer = made(12.0)
    assert len(fewer.gaussians) == pytest.approx(len(scaffold.gaussians) * (4.0 / 6.0) ** 3, rel=0.1)
    assert fewer.n_shared == 0
    assert fewer.anchor is scaffold.anchor
