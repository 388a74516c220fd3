"""The files of one session: images, sidecars, figure and metrics, the metrics last."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from atlasgs_bids.app.provenance import provenance, source_uri
from atlasgs_bids.app.sidecars import fit_fields, skull_stripped
from atlasgs_bids.app.target import TargetRun
from atlasgs_bids.bids.outputs.names import TargetOutputs, anchor_outputs, bids_uri, image_sidecar, json_path
from atlasgs_bids.bids.plan.files import remove_old_files, stack_outputs
from atlasgs_bids.core.trust import RISK
from atlasgs_bids.imaging.displacement import (
    Displacement,
    anchor_from_target_field,
    centres_mm,
    target_from_anchor_field,
    unwarped,
)
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import to_nifti, write_image
from atlasgs_bids.imaging.profile import slice_profile
from atlasgs_bids.imaging.registration.register import write_itk_transform
from atlasgs_bids.imaging.series import SeriesKinds
from atlasgs_bids.imaging.volume import voxel_sizes_mm
from atlasgs_bids.report.columns import metrics_dictionary, motion_dictionary
from atlasgs_bids.report.figures.calibration import calibration_figure
from atlasgs_bids.report.figures.distortion import DistortionImages, distortion_figure
from atlasgs_bids.report.figures.motion import motion_figure
from atlasgs_bids.report.figures.target import TargetImages, target_figure
from atlasgs_bids.restoration.flags import LABELS, FlaggedRegion
from atlasgs_bids.restoration.metrics import doubts, target_metrics
from atlasgs_bids.restoration.result import StackResult, TargetResult, mean_interpolated
from atlasgs_bids.restoration.stack import Calibration
from atlasgs_bids.restoration.target_files import save_target
from atlasgs_bids.runtime.costs import Clock, peak_gpu_memory_mib, peak_memory_mib
from atlasgs_bids.runtime.files import atomic, save_json, save_tsv

_MOST_REGIONS = 50
"""Of the flags, the largest, that the sidecar names one by one."""

Sidecars = Mapping[Path, Mapping[str, Any]]
"""Of each file of a target, by the file's path."""


def _save_images(run: TargetRun, result: TargetResult, sidecars: Sidecars) -> None:
    """The result, and for each stack the simulated and residual slices on its own grid."""
    target, outputs, naming = run.target, run.outputs, run.naming
    remove_old_files(target, naming)
    on_grid = partial(to_nifti, world_from_voxel=result.grid.world_from_voxel, form_code=result.form_code)
    _save_described(on_grid(result.sr), outputs.sr, sidecars)
    if result.sd is not None:
        _save_described(on_grid(result.sd), outputs.srstd, sidecars)
    if result.trust is not None:
        _save_described(on_grid(result.trust.mask, dtype=np.uint8), outputs.trusted_mask, sidecars)
    if result.flags is not None:
        save_tsv([{"index": label, "name": name} for label, name in LABELS.items()], outputs.flags_tsv)
        _save_described(on_grid(result.flags.labels, dtype=np.uint8), outputs.flags, sidecars)
    with _described(outputs.scaffold_npz, sidecars) as path:
        save_target(path, result.model, result.n_shared)
    for planned, stack in zip(target.stacks, result.stacks, strict=True):
        own = stack_outputs(planned, target, naming)
        residual = np.where(stack.weights > 0, stack.acquired.data - stack.simulated, np.float32(0))
        acquired = stack.acquired
        native = partial(to_nifti, world_from_voxel=acquired.world_from_voxel, form_code=acquired.form_code)
        _save_described(native(stack.simulated), own.simulated, sidecars)
        _save_described(native(residual), own.residual, sidecars)


@contextmanager
def _described(path: Path, sidecars: Sidecars) -> Iterator[Path]:
    """``atomic``, with the sidecar in place before the file: no moment shows the one without the other."""
    with atomic(path) as temporary:
        yield temporary
        save_json(sidecars[path], json_path(path))


def _save_described(image: nib.Nifti1Image, path: Path, sidecars: Sidecars) -> None:
    with _described(path, sidecars) as temporary:
        write_image(image, temporary)


def write_target(run: TargetRun, result: TargetResult, clock: Clock) -> None:
    """Every file of a target but the volumes of a series; the metrics last, which say that it is finished."""
    with clock.measure("writing"):
        row = _write_files(run, result)
    row |= {f"seconds_{stage}": value for stage, value in clock.seconds.items()}
    row |= {"peak_memory": peak_memory_mib(), "peak_gpu_memory": peak_gpu_memory_mib()}
    row["device"] = run.config.restoration.device
    save_json(metrics_dictionary(), run.outputs.metrics_json)
    save_tsv([row], run.outputs.metrics_tsv)


def _write_files(run: TargetRun, result: TargetResult) -> dict[str, Any]:
    """Every file but the metrics, which are returned: both need the interpolated images.

    What only computes goes on beside what is written and drawn.
    """
    with ThreadPoolExecutor(1) as beside:
        grid, anchor = result.grid, result.anchor
        anchor_image = beside.submit(resample, anchor.volume, grid)
        stacks = [stack.interpolable for stack in result.stacks]
        cubic = beside.submit(mean_interpolated, stacks, grid)
        _write_images(run, result)
        foreground = anchor.foreground_on(grid)
        n_volumes = 1 if run.target.series is None else len(run.target.series.kinds)
        metrics = beside.submit(
            target_metrics, n_volumes, result, anchor_image.result(), cubic.result(), foreground
        )
        with atomic(run.outputs.figure) as path:
            trusted = None if result.trust is None else result.trust.mask
            flagged = None if result.flags is None else result.flags.labels
            shown = TargetImages(
                anchor_image.result(), cubic.result(), result.sr, result.sd, trusted, flagged, anchor.name
            )
            mask = foreground & result.fov
            target_figure(path, shown, grid.world_from_voxel, run.label, mask, doubts(result))
        return metrics.result()


def _write_images(run: TargetRun, result: TargetResult) -> None:
    """Images, transforms and the figures of each stack."""
    target, outputs, naming = run.target, run.outputs, run.naming
    grid, sidecars = result.grid, target_sidecars(run, result)
    if target.series is None:
        _save_images(run, result, sidecars)
    mask_image = to_nifti(result.fov, grid.world_from_voxel, np.uint8, result.form_code)
    _save_described(mask_image, outputs.fov_mask, sidecars)
    for planned, stack in zip(target.stacks, result.stacks, strict=True):
        own = stack_outputs(planned, target, naming)
        with _described(own.xfm, sidecars) as path:
            write_itk_transform(path, stack.registration)
        if stack.displacement is not None:
            _write_displacement(stack, stack.displacement, result, own, sidecars)
        if stack.motion:
            _write_motion(stack, own)
        if stack.calibration is not None:
            _draw_calibration(stack, stack.calibration, own)


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


def _write_displacement(
    stack: StackResult, found: Displacement, result: TargetResult, own: TargetOutputs, sidecars: Sidecars
) -> None:
    """Where points of the head are found in the slices, and back, as fields and as a figure."""
    pose, anchor = stack.registration.target_from_anchor, result.anchor
    grid = anchor.volume.grid
    _save_described(target_from_anchor_field(found, pose, grid), own.deformed_to_anchor, sidecars)
    back = anchor_from_target_field(found, pose, stack.acquired.grid)
    _save_described(back, own.deformed_from_anchor, sidecars)
    shown = DistortionImages(
        anchor.volume.data,
        resample(stack.acquired, grid, pose),
        unwarped(stack.acquired, grid, pose, found),
        found.at(centres_mm(grid)).reshape(*grid.shape, 3),
        anchor.foreground,
    )
    with atomic(own.figure_of("distortion")) as path:
        files = ", ".join(step.path.name for step in stack.source.transforms)
        way = f"by {files}" if files else "along the phase-encoding axis"
        title = f"{stack.source.name}: displacement {way}"
        distortion_figure(path, shown, grid.world_from_voxel, title)


def _draw_calibration(stack: StackResult, found: Calibration, own: TargetOutputs) -> None:
    """What the slices say of their position and profile, beside what header and sidecar say."""
    with atomic(own.figure_of("calibration")) as path:
        stated = slice_profile("box", stack.source.geometry.thickness_mm)
        calibration_figure(path, found, stated, f"Position and slice profile of {stack.source.name}")


def _write_motion(stack: StackResult, own: TargetOutputs) -> None:
    """Where every slice lay, as a table and as a figure."""
    rows = [
        {
            "slice": k,
            **dict(zip(("translation_x", "translation_y", "translation_z"), p.translation_mm, strict=True)),
            **dict(zip(("rotation_x", "rotation_y", "rotation_z"), p.rotation_deg, strict=True)),
            "gain": p.gain,
            "estimated": p.estimated,
        }
        for k, p in enumerate(stack.motion)
    ]
    save_json(motion_dictionary(), json_path(own.motion_tsv))
    save_tsv(rows, own.motion_tsv)
    with atomic(own.figure_of("motion")) as path:
        title = f"Movement between the slices of {stack.source.name}"
        motion_figure(path, stack.motion, title)
