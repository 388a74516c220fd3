"""Sidecars of a session's files: what each holds, and how it was made."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.provenance import provenance, source_uri
from atlasgs_bids.app.target import TargetRun
from atlasgs_bids.bids.outputs.names import anchor_outputs, bids_uri, image_sidecar
from atlasgs_bids.bids.plan.files import stack_outputs
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.bids.plan.targets import TargetPlan
from atlasgs_bids.core.appearance import Appearance
from atlasgs_bids.core.trust import RISK
from atlasgs_bids.imaging.series import SeriesKinds
from atlasgs_bids.imaging.slice_motion import largest_movement
from atlasgs_bids.imaging.volume import voxel_sizes_mm
from atlasgs_bids.imaging.volume_motion import SeriesMotion
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.flags import LABELS, FlaggedRegion
from atlasgs_bids.restoration.metrics import doubts
from atlasgs_bids.restoration.result import TargetResult

_MOST_REGIONS = 50
"""Of the flags, the largest, that the sidecar names one by one."""


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


def target_sidecars(run: TargetRun, result: TargetResult) -> dict[Path, dict[str, Any]]:
    """The sidecar of each file of a target that has one, but for tables."""
    plan, target, outputs, config = run.plan, run.target, run.outputs, run.config
    transforms = [step.path for stack in target.stacks for step in stack.transforms]
    paths = [*(stack.source.path for stack in target.stacks), plan.anchor.path, *transforms]
    sources = [source_uri(path, config) for path in paths]
    shared = anchor_outputs(config.out_dir, plan.participant, plan.session, plan.space)
    anchor_path, scaffold_path = shared.anchor, shared.scaffold_npz
    size_mm = voxel_sizes_mm(result.grid.world_from_voxel)
    on_grid: dict[str, Any] = {
        "spatial_reference": bids_uri(anchor_path, config.out_dir, ""),
        "resolution": " x ".join(f"{size:.3g}" for size in size_mm)
        + f" mm ({config.restoration.resolution})",
    }
    stripped = skull_stripped(plan, result.anchor)
    sidecar = partial(image_sidecar, target.source.sidecar, sources=sources)
    found = {
        outputs.sr: sidecar(
            description="Isotropic image rendered from Gaussians fitted to the acquired slices; intensities "
            "in the units of the source; 0 outside the field of view and the anchor's foreground",
            skull_stripped=stripped, **on_grid, **fit_fields(result, target, config),
            **provenance(plan, target, config),
        ),
        outputs.fov_mask: sidecar(
            description="Where the acquired slices cover the output grid", mask_type="ROI", **on_grid
        ),
    }  # fmt: skip
    if target.series is None and result.sd is not None:
        found[outputs.srstd] = sidecar(
            description="Standard deviation of the error of the isotropic image, in its units, from slices "
            "predicted without them: 90 % of the errors are expected within 1.645 times it",
            skull_stripped=stripped,
            **on_grid,
        )
    if target.series is not None and result.volume_errors:
        found |= _series_errors(
            run, target.series, result, partial(sidecar, skull_stripped=stripped, **on_grid)
        )
    if target.series is None and (trust := result.trust) is not None:
        found[outputs.trusted_mask] = sidecar(
            description="Where the error is expected below half the local contrast, the standard deviation "
            "of the image within some 3 mm. The promise is about this subject's slices, each predicted from "
            "others: at most a tenth of their believed voxels err by more. What simulations with a truth "
            "say of the image itself is in docs/benchmarks.md",
            mask_type="ROI",
            **on_grid,
            RiskPromised=RISK, RiskOnSlices=trust.risk, RiskOnSlicesWithoutMask=trust.risk_everywhere,
            NumberOfSlices=trust.n_slices,
        )  # fmt: skip
    if target.series is None and result.flags is not None:
        found[outputs.flags] = sidecar(
            description="1, contradicted: the slices show what neither other slices nor the anchor foretell, "
            "or nothing of a contrast that the anchor has, or what the image does not explain. 2, "
            "misaligned: a patch of the head of some 40 mm fits the anchor better more than 1 mm elsewhere, "
            "by two standard errors. 0 says that neither was found, not that the image is right",
            **on_grid,
            Regions=[_described_region(region) for region in result.flags.regions[:_MOST_REGIONS]],
        )
    if target.series is None:
        found[outputs.scaffold_npz] = {
            "Description": "The target as Gaussians: amplitudes of the shared ones, then means, "
            "scales (mm, RAS), quaternions and amplitudes of the target's own; see atlasgs-render",
            "Sources": [bids_uri(scaffold_path, config.out_dir, "")],
            "NumberOfSharedGaussians": result.n_shared,
            "NumberOfSpecificGaussians": len(result.gaussians) - result.n_shared,
        }
    for planned in target.stacks:
        own = stack_outputs(planned, target, run.naming)
        native = partial(image_sidecar, planned.source.sidecar, sources=sources, skull_stripped=stripped)
        found[own.simulated] = native(description="What the model predicts for the acquired slices")
        found[own.residual] = native(
            description="Acquired minus simulated slices; 0 where a voxel took no part"
        )
        found[own.xfm] = {
            "Description": "ITK transform for resampling the target onto the anchor: its point map goes "
            "from the anchor to the target (LPS, mm)",
            "Sources": sources,
        }
        field = (
            "ITK displacement field (LPS, mm) from points of the {} to points of the {}, to resample the {} "
        )
        field += "onto the {}; signal is squeezed with space: multiply by the determinant of its Jacobian"
        for path, words in (
            (own.deformed_to_anchor, ("anchor", "target", "target", "anchor")),
            (own.deformed_from_anchor, ("target", "anchor", "anchor", "target")),
        ):
            found[path] = {"Description": field.format(*words), "Sources": sources}
    return found


def _series_errors(
    run: TargetRun, kinds: SeriesKinds, result: TargetResult, sidecar: Callable[..., dict[str, Any]]
) -> dict[Path, dict[str, Any]]:
    """Of the standard deviations of a series, one map for each kind of volume, and of their noise."""
    names = list(result.volume_errors)
    maps = {"Kinds": names, "MapOfVolume": [names.index(kind) for kind in kinds.kinds]}
    about = (
        "of one volume of each of the Kinds of the restored series, lying still and with all its slices, in "
        "its units; MapOfVolume: for each volume of the series the index of its map, from 0."
    )
    total = f"Standard deviation of the error {about} 90 % of the errors are expected within 1.645 times it"
    noise = (
        f"What the slices' noise makes of the standard deviation of the error {about} It differs from volume "
        "to volume; the rest of desc-srstd is much the same in all volumes of a kind"
    )
    return {
        run.outputs.srstd: sidecar(description=total, **maps),
        run.outputs.srnoisestd: sidecar(description=noise, **maps),
    }


def _described_region(region: FlaggedRegion) -> dict[str, Any]:
    """Of a sidecar; mm and mm³, RAS."""
    shift = {} if region.shift_mm is None else {"Shift": [round(float(d), 1) for d in region.shift_mm]}
    centre = [round(float(x), 1) for x in region.centre_mm]
    known = {"Label": LABELS[region.label], "Centre": centre, "Side": region.side}
    return {**known, "Volume": round(region.volume_mm3), **shift}
