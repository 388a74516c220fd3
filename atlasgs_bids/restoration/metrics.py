"""What is measured of a finished target without a truth, and what its user is warned of."""

from typing import Any

import numpy as np
import numpy.typing as npt

from atlasgs_bids.core.metrics import edge_agreement, sharpness_ratio
from atlasgs_bids.imaging.registration.register import foreground_points
from atlasgs_bids.imaging.slice_motion import largest_movement
from atlasgs_bids.imaging.slices import slice_normal
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.flags import LABELS
from atlasgs_bids.restoration.result import TargetResult
from atlasgs_bids.restoration.stack import Calibration

MIN_COVERAGE = 0.8
"""Part of the anchor's foreground below which a target's field of view is warned of."""
MAX_DISAGREEMENT = 0.005
"""Part of the slices' voxels above which a disagreement of slices and prior is warned of."""

MIN_ANCHOR_GAIN = 0.2
"""Part of the error that a T1w of the same head saves at least: 0.4 to 0.9 wherever it was measured."""


def warnings_of(result: TargetResult) -> list[str]:
    """What the log says of a target once it is fitted; of its position and headers it has spoken before."""
    coverage = [coverage_warning(result.anchor, result.coverage)] if result.coverage < MIN_COVERAGE else []
    return [*coverage, *_value_warnings(result), *_poor_guidance(result), *_flag_warnings(result)]


def doubts(result: TargetResult) -> list[str]:
    """What whoever looks at a result has to know: in its sidecar and on its figure."""
    positions = [text for stack in result.stacks for text in stack.registration.warnings]
    profiles = [text for own in _calibrations(result) for text in own.warnings]
    said = [*_unknown_orientation(result), *_value_warnings(result), *positions, *profiles]
    return [*said, *_poor_guidance(result), *_flag_warnings(result)]


def _calibrations(result: TargetResult) -> list[Calibration]:
    return [stack.calibration for stack in result.stacks if stack.calibration is not None]


def _unknown_orientation(result: TargetResult) -> list[str]:
    unknown = [] if result.anchor.volume.form_code else [f"the {result.anchor.name}"]
    unknown += [stack.source.name for stack in result.stacks if not stack.acquired.form_code]
    if not unknown:
        return []
    return [f"the orientation of {', '.join(unknown)} is unknown: left and right may be swapped"]


def _value_warnings(result: TargetResult) -> list[str]:
    volumes = [*(stack.acquired for stack in result.stacks), result.anchor.volume]
    return [text for volume in volumes for text in volume.warnings]


def _poor_guidance(result: TargetResult) -> list[str]:
    """Where the anchor is a poor guide to a target."""
    found, name = [], result.anchor.name
    gain = _anchor_gain(result)
    if not result.appearance.follows_anchor or (gain is not None and gain < MIN_ANCHOR_GAIN):
        found.append(
            f"the {name} hardly helps to predict the slices, so the result follows it little; check the "
            f"registration, and that the {name} is of this head"
        )
    if result.prior_disagrees > MAX_DISAGREEMENT:
        where = "residual" if result.sd is None else "residual, desc-srstd"
        found.append(
            f"in {100 * result.prior_disagrees:.1f} % of the slices' voxels the slices and what the {name} "
            f"suggests disagree beyond the noise; look there ({where}) before trusting detail between slices"
        )
    return found


def _flag_warnings(result: TargetResult) -> list[str]:
    return [] if result.flags is None else result.flags.warnings(result.anchor.name)


def coverage_warning(anchor: Anchor, coverage: float) -> str:
    """What the user is told where the field of view is small."""
    seen = "brain" if anchor.is_brain else "head (no brain mask was found)"
    return (
        f"the slices cover {coverage:.0%} of the anchor's {seen}, expected at least {MIN_COVERAGE:.0%}; "
        "outside them the result is 0: check the field-of-view mask"
    )


def _anchor_gain(result: TargetResult) -> float | None:
    gains = [stack.anchor_gain for stack in result.stacks if stack.anchor_gain is not None]
    return min(gains, default=None)


def target_metrics(
    n_volumes: int,
    result: TargetResult,
    anchor_image: npt.NDArray[np.float32],
    cubic: npt.NDArray[np.float32],
    foreground: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    """The row of ``desc-sr_metrics.tsv``, but for time and memory."""
    stacks, appearance = result.stacks, result.appearance
    registrations = [stack.registration for stack in stacks]
    position_errors = [own.position_error_mm for own in _calibrations(result) if own.position_error_mm]
    profiles = [own.found_profile for own in _calibrations(result) if own.found_profile]
    movements = [largest_movement(stack.motion) for stack in stacks if stack.motion]
    motion = result.motion
    if motion is not None:
        movements.append(largest_movement(motion.positions))
    mask = foreground & result.fov
    errors = []
    for stack in stacks:
        observed = stack.weights > 0
        errors.append((stack.acquired.data - stack.simulated)[observed].astype(np.float64))
    consistency = float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))
    noise = float(np.mean([stack.noise_sd for stack in stacks]))
    first, geometry = stacks[0], stacks[0].source.geometry
    normal_target = slice_normal(first.acquired.world_from_voxel, geometry.axis)
    normal_anchor = first.registration.target_from_anchor[:3, :3].T @ normal_target
    normal_vox = np.linalg.inv(result.grid.world_from_voxel[:3, :3]) @ normal_anchor
    return {
        "consistency_rms": consistency,
        "consistency_to_noise": consistency / noise if noise > 0 else None,
        "noise_sd": noise,
        "sharpness_before": sharpness_ratio(cubic, mask, normal_vox),
        "sharpness_after": sharpness_ratio(result.sr, mask, normal_vox),
        "edge_agreement_before": edge_agreement(cubic, anchor_image, mask),
        "edge_agreement_after": edge_agreement(result.sr, anchor_image, mask),
        "registration_rotation": max(own.rotation_deg for own in registrations),
        "registration_translation": max(own.translation_mm for own in registrations),
        "registration_displacement": max(own.displacement_mm for own in registrations),
        "registration_method": ", ".join(dict.fromkeys(own.method for own in registrations)),
        "registration_error": max(position_errors, default=None),
        **_distortion_metrics(result),
        "motion_translation": max((own[0] for own in movements), default=None),
        "motion_rotation": max((own[1] for own in movements), default=None),
        "framewise_displacement": None if motion is None else motion.mean_displacement_mm,
        "n_lost_slices": None if motion is None else motion.n_lost,
        "fov_coverage": result.coverage,
        "n_stacks": len(stacks),
        "n_volumes": n_volumes,
        "slice_thickness": geometry.thickness_mm,
        "slice_spacing": geometry.spacing_mm,
        "profile_sd": profiles[0].sd_mm if profiles else None,
        "profile_sd_error": profiles[0].error_mm if profiles else None,
        "n_gaussians": len(result.gaussians),
        "n_gaussians_specific": len(result.gaussians) - result.n_shared,
        "anchor_psnr": result.anchor_psnr_db,
        "regularization": appearance.regularization,
        "held_out_rms": appearance.held_out_rms,
        "trust": appearance.trust,
        "anchor_gain": _anchor_gain(result),
        "follows_anchor": appearance.follows_anchor,
        "prior_disagrees": result.prior_disagrees,
        **_error_metrics(result, mask),
        **_flag_metrics(result),
        "difference_to_noise": result.difference_to_noise,
        "solver_iterations": appearance.solution.n_steps,
        "solver_relative_residual": appearance.solution.relative_residual,
        "solver_converged": appearance.solution.converged,
    }


def _distortion_metrics(result: TargetResult) -> dict[str, Any]:
    """How far the target is displaced, and what held-out slices say of that; None where nothing is known."""
    points_mm = foreground_points(result.anchor.volume, result.anchor.foreground)
    moved = [own.displacement for own in result.stacks if own.displacement is not None]
    lengths_mm = [np.linalg.norm(own.at(points_mm), axis=1) for own in moved]
    asked = [own.distortion for own in _calibrations(result) if own.distortion is not None]
    return {
        "distortion_mean": max((float(own.mean()) for own in lengths_mm), default=None),
        "distortion_max": max((float(own.max()) for own in lengths_mm), default=None),
        "distortion_gain": asked[0].gain if asked else None,
        "distortion_gain_error": asked[0].gain_error if asked else None,
    }


def _flag_metrics(result: TargetResult) -> dict[str, Any]:
    """How many regions are flagged, and how much of the image, mm³; None where it was not asked for."""
    found: dict[str, Any] = {}
    for label, name in LABELS.items():
        flags = result.flags
        regions = flags.of(label) if flags is not None and label in flags.asked else None
        found[f"{name}_regions"] = None if regions is None else len(regions)
        found[f"{name}_volume"] = None if regions is None else sum(own.volume_mm3 for own in regions)
    return found


def _error_metrics(result: TargetResult, mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """What is known of the result's error in a mask; None where nothing is."""
    error, trust = next(iter(result.volume_errors.values()), result.error), result.trust
    noise_sd = None if error is None else error.noise_sd
    known = error is not None and mask.any()
    return {
        "sd_median": float(np.median(error.sd[mask])) if error is not None and known else None,
        "sd_noise_median": float(np.median(noise_sd[mask])) if noise_sd is not None and known else None,
        "trusted_part": float(trust.mask[mask].mean()) if trust is not None and known else None,
        "trusted_risk": None if trust is None else trust.risk,
        "untrusted_risk": None if trust is None else trust.risk_everywhere,
    }
