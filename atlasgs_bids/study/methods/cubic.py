"""Cubic B-spline interpolation of the slices, at their true centres."""

from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.study.case import Case
from atlasgs_bids.study.methods.protocol import Restored, kept
from atlasgs_bids.study.settings import StudyConfig


def missing(study: StudyConfig, device: str) -> str | None:  # noqa: ARG001 - the protocol's
    return None


def restore(case: Case) -> Restored:
    placed = case.placed
    return Restored(
        kept(resample(placed.acquired, case.grid, placed.registration.target_from_anchor, order=3), case)
    )
