"""The figure of what the slices say of their own position and profile."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.interpolate import CubicHermiteSpline

from atlasgs_bids.core.rigid import UncertainPosition
from atlasgs_bids.core.slice_profile import FoundProfile
from atlasgs_bids.imaging.profile import SliceProfile
from atlasgs_bids.restoration.stack import Calibration, PositionSearch

_NAMES = ("x", "y", "z")
_COLOURS = ("tab:red", "tab:green", "tab:blue")


def calibration_figure(path: str | Path, found: Calibration, stated: SliceProfile, title: str) -> None:
    """PNG with J along shifts and turns, the error on held-out slices over the profile's width, the profile.

    ``stated``: the profile by the sidecar. What was not asked for, or did not tell, says so in its panel.
    """
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    (shifts, turns), (widths, profile) = figure.subplots(2, 2)
    for panel, first, label in ((shifts, 0, "shift"), (turns, 3, "turn, at the head's radius")):
        panel.set_xlabel(f"{label}, mm (RAS)")
        panel.set_ylabel("rise of J, %")
        if found.search is None or found.position is None:
            _say(panel, "position not asked of the slices")
        else:
            _draw_rises(panel, found.search, found.position, first)
    widths.set_xlabel("standard deviation of the slice profile, mm")
    widths.set_ylabel("rise of the error on held-out slices, %")
    if found.found_profile is None:
        _say(widths, "the slices do not tell their profile, or were not asked")
    else:
        _draw_tried(widths, found.found_profile, stated)
    _draw_profiles(profile, found.profile, stated)
    for panel in (shifts, turns, widths, profile):
        panel.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})


def _draw_rises(panel: Axes, search: PositionSearch, position: UncertainPosition, first: int) -> None:
    """Three parameters: J as a curve, the position by registration as a circle, that found with its error."""
    rises, error_mm = search.rises, np.sqrt(np.diag(position.covariance))
    within = np.linspace(rises.offsets_mm[0], rises.offsets_mm[-1], 101)
    for k, (name, colour) in enumerate(zip(_NAMES, _COLOURS, strict=True), start=first):
        curve = CubicHermiteSpline(rises.offsets_mm, 100 * rises.rises[:, k], 100 * rises.slopes[:, k])
        at_mm, was_mm = float(search.found_mm[k]), float(search.registered_mm[k])
        panel.plot(within, curve(within), color=colour, label=f"{name} {at_mm - was_mm:+.2f} mm")
        panel.plot(rises.offsets_mm, 100 * rises.rises[:, k], ".", color=colour)
        panel.errorbar(at_mm, curve(at_mm), xerr=error_mm[k], fmt="D", ms=4, capsize=3, color=colour)
        panel.plot(was_mm, curve(np.clip(was_mm, within[0], within[-1])), "o", mfc="none", color=colour)
    panel.legend(
        fontsize=8, title="circle: registration; diamond: found, ± 1 standard error", title_fontsize=7
    )


def _draw_tried(panel: Axes, found: FoundProfile, stated: SliceProfile) -> None:
    """The error on held-out slices at each width that was tried."""
    sds_mm = np.array(list(found.tried))
    errors = np.array(list(found.tried.values()))
    panel.plot(sds_mm, 100 * (errors / errors.min() - 1), ".-", color="tab:blue")
    panel.axvspan(
        found.sd_mm - found.error_mm, found.sd_mm + found.error_mm, color="tab:blue", alpha=0.15, lw=0
    )
    seen = f"found: {found.sd_mm:.2f} ± {found.error_mm:.2f} mm"
    panel.axvline(found.sd_mm, color="tab:blue", lw=1, label=seen)
    panel.axvline(stated.sd_mm, color="0.4", ls="--", lw=1, label=f"stated: {stated.sd_mm:.2f} mm")
    panel.legend(fontsize=8)


def _draw_profiles(panel: Axes, found: SliceProfile | None, stated: SliceProfile) -> None:
    """Sensitivity over the distance from the slice's centre: as stated, and as it is used."""
    panel.plot(*_sensitivity(stated), color="0.4", ls="--", label="stated")
    if found is not None:
        panel.plot(*_sensitivity(found), color="tab:blue", label="found, and used")
    panel.set_xlabel("distance from the slice's centre, mm")
    panel.set_ylabel("sensitivity, per mm")
    panel.legend(fontsize=8)


def _sensitivity(profile: SliceProfile) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Corners of the density: constant between the profile's offsets, 0 beyond."""
    density = np.diff(profile.cumulative) / np.diff(profile.offsets_mm)
    return np.repeat(profile.offsets_mm, 2), np.concatenate([[0.0], np.repeat(density, 2), [0.0]])


def _say(panel: Axes, text: str) -> None:
    panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", va="center", color="0.4", fontsize=9)
