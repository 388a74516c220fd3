"""What the slices say of position and profile, drawn: with everything found, and with nothing."""

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from atlasgs_bids.core.position import Rises
from atlasgs_bids.core.rigid import RigidFrame, UncertainPosition
from atlasgs_bids.core.slice_profile import FoundProfile
from atlasgs_bids.imaging.profile import profile_with_sd, slice_profile
from atlasgs_bids.report.figures.calibration import _sensitivity, calibration_figure
from atlasgs_bids.restoration.stack import Calibration, PositionSearch


def found():
    offsets = np.array([-0.5, 0.0, 0.5])
    curvature = np.linspace(0.02, 0.07, 6)
    rises = Rises(offsets, 0.5 * curvature * offsets[:, None] ** 2, curvature * offsets[:, None])
    return Calibration(
        profile=profile_with_sd(1.9, 5.0),
        found_profile=FoundProfile(1.9, 0.1, {1.2: 31.0, 1.5: 30.2, 1.9: 30.0, 2.3: 30.6}),
        position=UncertainPosition(RigidFrame(torch.zeros(3), 60.0), 0.01 * np.eye(6)),
        search=PositionSearch(rises, np.array([0.3, -0.8, 0.1, 0.2, 0.0, -0.4]), np.full(6, 0.05)),
    )


def test_the_figure_shows_what_was_found_and_what_was_not(tmp_path):
    stated = slice_profile("box", 5.0)
    calibration_figure(tmp_path / "found.png", found(), stated, "sub-01 FLAIR")
    calibration_figure(tmp_path / ".nothing.tmp", Calibration(), stated, "sub-01 FLAIR")
    full, empty = imread(tmp_path / "found.png"), imread(tmp_path / ".nothing.tmp", format="png")
    assert full.shape == empty.shape
    # Three curves in the colours of the axes, in both panels of the position and nowhere without one.
    halves = np.array_split(full[: full.shape[0] // 2], 2, axis=1)
    for channel in range(3):
        others = [k for k in range(3) if k != channel]
        for half in halves:
            assert (half[..., channel] - half[..., others].max(-1) > 0.2).sum() > 100
        top = empty[: full.shape[0] // 2]
        assert (top[..., channel] - top[..., others].max(-1) > 0.2).sum() == 0


def test_a_profile_is_drawn_with_area_one():
    for profile in (slice_profile("box", 5.0), profile_with_sd(1.9, 5.0)):
        offsets_mm, density = _sensitivity(profile)
        assert np.trapezoid(density, offsets_mm) == pytest.approx(1.0)
        assert density[0] == density[-1] == 0
