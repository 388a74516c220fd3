"""The volumes of a series come one by one, and their time is counted where it is spent."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from atlasgs_bids.core.settings import AppearanceSettings, CoreSettings, ScaffoldSettings
from atlasgs_bids.imaging.series import SeriesKinds
from atlasgs_bids.restoration.result import rendered_volume
from atlasgs_bids.restoration.series import fit_series
from atlasgs_bids.restoration.series_images import restored_volumes
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.costs import Clock
from atlasgs_bids.runtime.progress import Progress
from tests.acquisitions import labelling_series
from tests.restoration.scenes import brain_scaffold, placed_series

SIZE_MM, SPACING_MM = 4, 12.0
SETTINGS = RestorationSettings(
    device="cpu", prior="graph", estimate_uncertainty=False,
    core=CoreSettings(
        scaffold=ScaffoldSettings(n_gaussians=1500, n_steps=2),
        appearance=AppearanceSettings(regularization=0.1, tolerance=1e-2),
    ),
)  # fmt: skip
PAUSE_S = 0.2
KINDS = SeriesKinds(("control", "label") * 2, ("control",) * 4, (0, 1, 2, 3))


@pytest.fixture(scope="module")
def fitted():
    """A function of settings: the fit of an ASL series."""
    scaffold = brain_scaffold(SIZE_MM, SETTINGS)
    acquired = labelling_series(np.eye(4), SPACING_MM, 2.0, n_pairs=2)
    series, placed = placed_series(acquired, KINDS, SPACING_MM)
    return lambda settings: fit_series(placed, series, KINDS, scaffold, settings, Progress.quiet())


@pytest.fixture(scope="module")
def fit(fitted):
    return fitted(SETTINGS)


def test_each_volume_is_the_image_and_the_slices_of_its_amplitudes_and_the_clock_tells_the_two_apart(fit):
    reference, clock = fit.reference_result(), Clock()
    volumes = restored_volumes(fit, reference, None, clock)
    assert clock.seconds == {}
    start = time.perf_counter()
    found = []
    for volume in volumes:
        found.append(volume)
        time.sleep(PAUSE_S)  # what the caller does with a volume counts as neither
    passed = time.perf_counter() - start
    assert set(clock.seconds) == {"appearance", "render"}
    assert min(clock.seconds.values()) > 0
    assert sum(clock.seconds.values()) <= passed - len(found) * PAUSE_S
    assert [volume.index for volume in found] == [0, 1, 2, 3]
    for volume, amplitudes in zip(found, (own for own, _ in fit.solved()), strict=True):
        image = rendered_volume(
            amplitudes, reference.grid, reference.inside, fit.scaffold, SETTINGS, floor=None
        )
        np.testing.assert_array_equal(volume.rendered, image)
        slices = fit.observation.slices_from_amplitudes.forward(amplitudes).numpy()
        np.testing.assert_array_equal(volume.simulated, slices)


def test_nothing_lies_below_the_floor(fit):
    volume = next(restored_volumes(fit, fit.reference_result(), 7.0, Clock()))
    assert volume.rendered.min() == 7


def test_the_slices_of_a_series_lie_still_whatever_is_asked_for_other_images(fitted, fit):
    """Volumes share one observation: that of a moving reference would not be theirs."""
    asked = fitted(replace(SETTINGS, motion="slice"))
    assert asked.reference.fit.stacks[0].motion == ()
    torch.testing.assert_close(
        asked.reference.fit.appearance.amplitudes, fit.reference.fit.appearance.amplitudes, rtol=0, atol=0
    )
