"""The files of one session: images, sidecars, figure and metrics, the metrics last."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from atlasgs_bids.bids.derivatives import TargetOutputs, anchor_outputs, bids_uri, image_sidecar
from atlasgs_bids.bids.files import atomic, save_image, save_json, save_tsv
from atlasgs_bids.config import RunConfig
from atlasgs_bids.core.appearance import Appearance
from atlasgs_bids.core.metrics import edge_agreement, noise_sd, sharpness_ratio
from atlasgs_bids.imaging.anchor import Anchor
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.registration import Registration, write_itk_transform
from atlasgs_bids.imaging.slices import slice_normal
from atlasgs_bids.imaging.volume import Grid, Volume, to_nifti, voxel_sizes_mm
from atlasgs_bids.plan import SubjectPlan, TargetPlan
from atlasgs_bids.report.dictionary import metrics_dictionary
from atlasgs_bids.report.figures import target_figure


@dataclass(frozen=True)
class TargetResult:
    """Everything that was computed for one target."""

    acquired: Volume
    registration: Registration
    appearance: Appearance
    simulated: npt.NDArray[np.float32]
    """The model's slices, native grid."""
    weights: npt.NDArray[np.float32]
    """0: the native voxel took no part in the fit."""
    grid: Grid
    sr: npt.NDArray[np.float32]
    """The result on ``grid``."""
    fov: npt.NDArray[np.bool_]
    """Where the acquired slices cover ``grid``."""
    anchor: Anchor
    n_gaussians: int
    anchor_psnr_db: float


def anchor_sidecars(
    plan: SubjectPlan, config: RunConfig, anchor: Anchor, n_gaussians: int, psnr_db: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sidecars of the anchor image and of the scaffold."""
    source = [bids_uri(plan.anchor.path, config.bids_dir)]
    image = image_sidecar(
        plan.anchor.sidecar,
        description=f"The anchor: {plan.anchor_reason}",
        sources=source,
        skull_stripped=_skull_stripped(plan, anchor),
    )
    scaffold = {
        "Description": "Gaussians fitted to the anchor: means_mm and scales_mm in its world (RAS, mm), "
        "quaternions (w, x, y, z), amplitudes in its intensity units",
        "Sources": source,
        "NumberOfGaussians": n_gaussians,
        "AnchorPSNR": psnr_db,
        "Seed": config.core.seed,
    }
    return image, scaffold


def write_target(
    plan: SubjectPlan,
    target: TargetPlan,
    outputs: TargetOutputs,
    result: TargetResult,
    config: RunConfig,
    seconds: dict[str, float],
    memory: dict[str, float | None],
) -> None:
    """Write every file of a target; the metrics come last and say that it is finished."""
    anchor, grid = result.anchor, result.grid
    native = result.acquired.world_from_voxel
    sources = [bids_uri(path, config.bids_dir) for path in (target.source.path, plan.anchor.path)]
    spatial_reference = bids_uri(anchor_outputs(config.out_dir, plan.participant, plan.session).anchor,
                                 config.out_dir, "")  # fmt: skip
    size_mm = voxel_sizes_mm(grid.world_from_voxel)
    on_grid = {
        "spatial_reference": spatial_reference,
        "resolution": " x ".join(f"{size:.3g}" for size in size_mm) + f" mm ({config.resolution})",
    }
    skull_stripped = _skull_stripped(plan, anchor)
    fit = {
        "Prior": "graph",
        "Regularization": result.appearance.regularization,
        "SliceThicknessUsed": target.geometry.thickness_mm,
        "SliceThicknessSource": target.geometry.thickness_source,
        "SpacingBetweenSlicesUsed": target.geometry.spacing_mm,
        "SliceProfile": str(config.slice_profile),
        "Registration": result.registration.method,
        "BiasCorrected": False,
    }
    residual = np.where(result.weights > 0, result.acquired.data - result.simulated, np.float32(0))

    def sidecar(description: str, **more: Any) -> dict[str, Any]:
        return image_sidecar(target.source.sidecar, description=description, sources=sources, **more)

    save_image(to_nifti(result.sr, grid.world_from_voxel), outputs.sr)
    save_json(
        sidecar(
            "Isotropic image rendered from Gaussians fitted to the acquired slices; intensities in the units "
            "of the source; 0 outside the field of view and the anchor's foreground",
            skull_stripped=skull_stripped, **on_grid, **fit,
        ),
        outputs.sr_json,
    )  # fmt: skip
    save_image(to_nifti(result.simulated, native), outputs.simulated)
    save_json(sidecar("What the model predicts for the acquired slices", skull_stripped=skull_stripped),
              outputs.simulated_json)  # fmt: skip
    save_image(to_nifti(residual, native), outputs.residual)
    save_json(
        sidecar(
            "Acquired minus simulated slices; 0 where a voxel took no part", skull_stripped=skull_stripped
        ),
        outputs.residual_json,
    )
    save_image(to_nifti(result.fov, grid.world_from_voxel, dtype=np.uint8), outputs.fov_mask)
    save_json(
        sidecar("Where the acquired slices cover the output grid", mask_type="ROI", **on_grid),
        outputs.fov_mask_json,
    )
    with atomic(outputs.xfm) as path:
        write_itk_transform(path, result.registration)
    save_json(
        {
            "Description": "ITK transform for resampling the target onto the anchor: its point map goes from "
            "the anchor to the target (LPS, mm)",
            "Sources": sources,
        },
        outputs.xfm_json,
    )
    anchor_image = resample(anchor.volume, grid)
    cubic = resample(result.acquired, grid, result.registration.target_from_anchor)
    foreground = anchor.foreground_on(grid)
    images = (anchor_image, cubic, result.sr)
    write_figure(plan, target, outputs, images, grid, foreground & result.fov)
    row = _metrics(target, result, anchor_image, cubic, foreground)
    row |= {f"seconds_{stage}": value for stage, value in seconds.items()}
    row |= {**memory, "device": config.device}
    save_json(metrics_dictionary(), outputs.metrics_json)
    save_tsv([row], outputs.metrics_tsv)


def write_figure(
    plan: SubjectPlan,
    target: TargetPlan,
    outputs: TargetOutputs,
    images: tuple[npt.NDArray, npt.NDArray, npt.NDArray],
    grid: Grid,
    mask: npt.NDArray[np.bool_],
) -> None:
    """Draw the figure of a target; ``images``: anchor, cubic interpolation and result on ``grid``."""
    with atomic(outputs.figure) as path:
        target_figure(path, *images, grid.world_from_voxel, f"{plan.label} {target.label}", mask)


def _metrics(
    target: TargetPlan,
    result: TargetResult,
    anchor_image: npt.NDArray[np.float32],
    cubic: npt.NDArray[np.float32],
    foreground: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    registration, appearance = result.registration, result.appearance
    observed = result.weights > 0
    mask = foreground & result.fov
    error = (result.acquired.data - result.simulated)[observed].astype(np.float64)
    consistency = float(np.sqrt(np.mean(error**2)))
    noise = noise_sd(result.acquired.data, target.geometry.axis, observed)
    normal_target = slice_normal(result.acquired.world_from_voxel, target.geometry.axis)
    normal_anchor = registration.target_from_anchor[:3, :3].T @ normal_target
    normal_vox = np.linalg.inv(result.grid.world_from_voxel[:3, :3]) @ normal_anchor
    return {
        "consistency_rms": consistency,
        "consistency_to_noise": consistency / noise if noise > 0 else None,
        "noise_sd": noise,
        "sharpness_before": sharpness_ratio(cubic, mask, normal_vox),
        "sharpness_after": sharpness_ratio(result.sr, mask, normal_vox),
        "edge_agreement_before": edge_agreement(cubic, anchor_image, mask),
        "edge_agreement_after": edge_agreement(result.sr, anchor_image, mask),
        "registration_rotation": registration.rotation_deg,
        "registration_translation": registration.translation_mm,
        "registration_displacement": registration.displacement_mm,
        "registration_method": registration.method,
        "fov_coverage": float(mask.sum() / max(1, foreground.sum())),
        "slice_thickness": target.geometry.thickness_mm,
        "slice_spacing": target.geometry.spacing_mm,
        "n_gaussians": result.n_gaussians,
        "anchor_psnr": result.anchor_psnr_db,
        "regularization": appearance.regularization,
        "held_out_rms": appearance.held_out_rms.get(appearance.regularization),
        "solver_iterations": appearance.solution.n_steps,
        "solver_relative_residual": appearance.solution.relative_residual,
        "solver_converged": appearance.solution.converged,
    }


def _skull_stripped(plan: SubjectPlan, anchor: Anchor) -> bool:
    stated = plan.anchor.sidecar.get("SkullStripped")
    return stated if isinstance(stated, bool) else anchor.is_brain
