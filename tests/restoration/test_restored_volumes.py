"""The volumes of a series come one by one, and their time is counted where it is spent."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from atlasgs_bids.core.scaffold import fit_scaffold
from atlasgs_bids.core.settings import AppearanceSettings, CoreSettings, ScaffoldSettings
from atlasgs_bids.imaging.foreground import foreground_mask
from atlasgs_bids.imaging.registration.register import Registration
from atlasgs_bids.imaging.series import Series, SeriesKinds
from atlasgs_bids.imaging.slices import slice_geometry
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.result import rendered_volume
from atlasgs_bids.restoration.scaffold import SessionScaffold, graph_prior
from atlasgs_bids.restoration.series import fit_series, restored_volumes
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack, StackInput
from atlasgs_bids.runtime.costs import Clock
from atlasgs_bids.runtime.progress import Progress
from tests.acquisitions import labelling_series
from tests.imaging.phantom import T1W, head

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
    volume = head(T1W, SIZE_MM, with_scalp=False)
    foreground = foreground_mask(volume)
    support = ndimage.binary_dilation(foreground, iterations=2)
    anchor = Anchor(volume, foreground, support, exterior_is_empty=True, is_brain=True)
    world = torch.from_numpy(volume.world_from_voxel)
    found = fit_scaffold(torch.from_numpy(volume.data), torch.from_numpy(support), world, SETTINGS.core)
    prior = graph_prior(anchor, found.gaussians, SETTINGS)
    scaffold = SessionScaffold(
        anchor, found.gaussians, found.anchor_psnr_db, 0.0, prior, len(found.gaussians)
    )
    acquired = labelling_series(np.eye(4), SPACING_MM, 2.0, n_pairs=2)
    series = Series(acquired.data, 1.0, 0.0, acquired.world_from_voxel, 1.0, None)
    reference = series.mean(KINDS.reference)
    geometry = slice_geometry(reference.data.shape, acquired.world_from_voxel, {}, SPACING_MM)
    registration = Registration(np.eye(4), 0.0, 0.0, 0.0, "rigid", None, None)
    placed = PlacedStack(StackInput("asl.nii.gz", geometry), reference, registration)
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
    for volume, amplitudes in zip(found, fit.amplitudes(), strict=True):
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
