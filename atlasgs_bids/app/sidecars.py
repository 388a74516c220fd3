"""Sidecars of a session's files: what each holds, and how it was made."""

from collections.abc import Sequence
from typing import Any

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.provenance import source_uri
from atlasgs_bids.bids.outputs.names import image_sidecar
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.bids.plan.targets import TargetPlan
from atlasgs_bids.core.appearance import Appearance
from atlasgs_bids.imaging.slice_motion import largest_movement
from atlasgs_bids.imaging.volume_motion import SeriesMotion
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.metrics import doubts
from atlasgs_bids.restoration.result import TargetResult


def anchor_sidecars(
    plan: SubjectPlan, config: RunConfig, anchor: Anchor, n_gaussians: int, psnr_db: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sidecars of the anchor image and of the scaffold."""
    used = [image for image in (plan.anchor, plan.magnitude) if image is not None]
    source = [source_uri(image.path, config) for image in used]
    image = image_sidecar(
        plan.anchor.sidecar,
        description=f"The anchor: {plan.anchor_reason}",
        sources=source,
        skull_stripped=skull_stripped(plan, anchor),
    )
    scaffold = {
        "Description": "Gaussians fitted to the anchor: means_mm and scales_mm in its world (RAS, mm), "
        "quaternions (w, x, y, z), amplitudes in its intensity units",
        "Sources": source,
        "NumberOfGaussians": n_gaussians,
        "AnchorPSNR": psnr_db,
        "Seed": config.restoration.core.seed,
    }
    return image, scaffold


def fit_fields(result: TargetResult, target: TargetPlan, config: RunConfig) -> dict[str, Any]:
    """How the result was made; one value for each stack where there are several."""

    def of_stacks(values: Sequence[Any]) -> Any:
        return values[0] if len(values) == 1 else list(values)

    stacks = result.stacks
    geometries = [stack.source.geometry for stack in stacks]
    calibrations = [stack.calibration for stack in stacks]
    profiles = [own and own.found_profile for own in calibrations]
    return {
        "Prior": _prior_name(result.appearance),
        "PriorDisagrees": result.prior_disagrees,
        "Warnings": doubts(result) or None,
        "Geometry": config.restoration.core.geometry.mode,
        "Regularization": result.appearance.regularization,
        "SliceThicknessUsed": of_stacks([geometry.thickness_mm for geometry in geometries]),
        "SliceThicknessSource": of_stacks([geometry.thickness_source for geometry in geometries]),
        "SpacingBetweenSlicesUsed": of_stacks([geometry.spacing_mm for geometry in geometries]),
        "InPlaneVoxelSizeUsed": of_stacks([list(geometry.acquired_in_plane_mm) for geometry in geometries]),
        "SliceProfile": str(config.slice_profile_file or config.restoration.slice_profile),
        "SliceProfileSD": of_stacks([own and own.sd_mm for own in profiles]),
        "SliceProfileSDError": of_stacks([own and own.error_mm for own in profiles]),
        "RegistrationError": of_stacks([own and own.position_error_mm for own in calibrations]),
        "Registration": of_stacks([stack.registration.method for stack in stacks]),
        "Motion": target.movement(config.restoration.motion),
        **_moved_fields(result.motion),
        "StackGains": [stack.gain for stack in stacks] if len(stacks) > 1 else None,
        "StackNoise": [stack.noise_sd for stack in stacks] if len(stacks) > 1 else None,
        "BiasCorrected": False,
    }


def _moved_fields(motion: SeriesMotion | None) -> dict[str, Any]:
    """How far the volumes of a series lay from its reference, and what they lost."""
    if motion is None:
        return {}
    translation_mm, rotation_deg = largest_movement(motion.positions)
    return {
        "MovedVolumes": len(motion.moved),
        "LargestTranslation": translation_mm,
        "LargestRotation": rotation_deg,
        "LostSlices": motion.n_lost,
    }


def _prior_name(appearance: Appearance) -> str:
    if appearance.trust is not None:
        return "learned"
    return "graph" if appearance.follows_anchor else "smoothness"


def skull_stripped(plan: SubjectPlan, anchor: Anchor) -> bool:
    stated = plan.anchor.sidecar.get("SkullStripped")
    return stated if isinstance(stated, bool) else anchor.is_brain
