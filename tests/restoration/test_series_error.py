"""How far one volume of a series may be off, kind by kind, against the truth of a phantom."""

from dataclasses import replace

import numpy as np
import pytest

from atlasgs_bids.core.settings import AppearanceSettings, CoreSettings
from atlasgs_bids.imaging.series import SeriesKinds
from atlasgs_bids.restoration.series import fit_series
from atlasgs_bids.restoration.series_error import volume_errors, volume_uncertainties
from atlasgs_bids.restoration.series_images import restored_volumes
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.costs import Clock
from atlasgs_bids.runtime.progress import Progress
from tests.acquisitions import diffusion_series, labelling_series
from tests.restoration.scenes import brain_scaffold, placed_series

SIZE_MM, SPACING_MM, NOISE = 4, 8.0, 4.0
NORMAL_90 = 1.645
SETTINGS = RestorationSettings(
    device="cpu", prior="graph", slice_profile="box",
    core=CoreSettings(appearance=AppearanceSettings(tolerance=1e-3)),
)  # fmt: skip
DIFFUSION = SeriesKinds(("b0", *["b1000"] * 4), ("b0", *["b1000"] * 4), (0,))
LABELLING = SeriesKinds(("control", "label") * 3, ("control",) * 6, (0, 1, 2, 3, 4, 5))


@pytest.fixture(scope="module")
def scaffold():
    return brain_scaffold(SIZE_MM, SETTINGS)


def restored(acquired, kinds, scaffold, settings=SETTINGS):
    """The reference, all volumes on its grid, and the error of one of each kind."""
    series, placed = placed_series(acquired, kinds, SPACING_MM)
    fit = fit_series(placed, series, kinds, scaffold, settings, Progress.quiet())
    reference = fit.reference_result()
    volumes = list(restored_volumes(fit, reference, None, Clock()))
    samples = {
        name: [
            own.amplitudes
            for own in volumes
            if own.index in fit.samples and kinds.contrasts[own.index] == name
        ]
        for name in fit.contrasts
    }
    means = {
        kind: np.mean([volumes[v].rendered for v in kinds.volumes_of(kind)], axis=0)
        for kind in kinds.each_kind
    }
    errors = volume_errors(fit, reference, means, volume_uncertainties(fit, samples))
    return reference, [own.rendered for own in volumes], errors


def brain(reference):
    return reference.anchor.foreground_on(reference.grid) & reference.fov


def held(volumes, truths, sd, where):
    """Part of the voxels whose error is within 1.645 sd."""
    off = np.abs([image - truth.data for image, truth in zip(volumes, truths, strict=True)])[:, where]
    return float((off <= NORMAL_90 * sd[where]).mean())


def test_the_interval_holds_nine_tenths_of_a_shells_errors(scaffold):
    acquired = diffusion_series(np.eye(4), SPACING_MM, NOISE)
    reference, volumes, errors = restored(acquired, DIFFUSION, scaffold)
    assert list(errors) == ["b0", "b1000"]
    where, sd = brain(reference), errors["b1000"].sd
    shell = [volumes[1:], acquired.truth[1:]]
    assert 0.8 < held(*shell, sd, where) < 0.95
    assert held(*shell, 0.5 * sd, where) < 0.8
    assert held(*shell, 2 * sd, where) > 0.95
    assert errors["b0"].noise_sd is not None
    assert (errors["b0"].sd[where] > errors["b0"].noise_sd[where]).all()


@pytest.mark.slow
def test_the_noise_of_a_volume_is_what_its_replicates_differ_by(scaffold):
    """Its map is that of one volume, not of their mean, and of noise alone: the same in air and tissue."""
    still = labelling_series(np.eye(4), SPACING_MM, 0.0, n_pairs=3)
    noise = np.random.default_rng(1).normal(0, NOISE, still.data.shape).astype(np.float32)
    acquired = replace(still, data=still.data + noise)
    reference, volumes, errors = restored(acquired, LABELLING, scaffold)
    assert list(errors) == ["control", "label"]
    assert errors["control"] is errors["label"]
    where, noise_sd = brain(reference), errors["control"].noise_sd
    assert noise_sd is not None
    seen = np.var(volumes[0::2], axis=0, ddof=1)[where].mean() ** 0.5
    assert np.sqrt((noise_sd[where] ** 2).mean()) == pytest.approx(seen, rel=0.15)


def test_with_five_slices_the_posterior_speaks_alone(scaffold):
    acquired = diffusion_series(np.eye(4), SPACING_MM, NOISE)
    world = acquired.world_from_voxel.copy()
    world[:3, 3] += 10 * world[:3, 2]
    few = replace(acquired, data=acquired.data[:, :, 10:15], world_from_voxel=world)
    reference, _, errors = restored(few, DIFFUSION, scaffold)
    for error in errors.values():
        assert error.noise_sd is None
        assert (error.sd[brain(reference)] > 0).all()
