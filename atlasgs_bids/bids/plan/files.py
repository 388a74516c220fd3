"""Every file of a target: where it goes, whether it can have its name, and what an earlier run left of it."""

import os
from collections.abc import Sequence
from pathlib import Path

from atlasgs_bids.bids.entities import ECHO_PLANAR_SUFFIXES
from atlasgs_bids.bids.outputs.names import Naming, TargetOutputs, companion_path, json_path, target_outputs
from atlasgs_bids.bids.plan.targets import StackPlan, TargetPlan
from atlasgs_bids.errors import InputError
from atlasgs_bids.runtime.files import LONGEST_TEMPORARY

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095
"""What Linux and its file systems allow."""


def stack_outputs(stack: StackPlan, target: TargetPlan, naming: Naming) -> TargetOutputs:
    """Where the files of one stack go: with its own entities where the target has several."""
    entities = stack.source.entities if len(target.stacks) > 1 else target.entities
    return target_outputs(naming.out_dir, entities, naming.resolution, naming.space)


def companions(target: TargetPlan, image: Path) -> dict[str, Path]:
    """The text files beside an image of a series, by what they hold: ``bval``, ``bvec``, ``aslcontext``."""
    found: dict[str, Path] = {}
    if target.source.gradients is not None:
        found |= {name: companion_path(image, "dwi", f".{name}") for name in ("bval", "bvec")}
    if target.source.asl_context is not None:
        found["aslcontext"] = companion_path(image, "aslcontext", ".tsv")
    return found


def target_files(target: TargetPlan, naming: Naming) -> list[Path]:
    """Every file that a run may write for a target."""
    outputs = target_outputs(naming.out_dir, target.entities, naming.resolution, naming.space)
    data, others = [outputs.sr, outputs.fov_mask, outputs.metrics_tsv], [outputs.figure, outputs.thumbnail]
    for own in (stack_outputs(stack, target, naming) for stack in target.stacks):
        data += [own.simulated, own.residual, own.xfm]
        others.append(own.figure_of("calibration"))
        if target.entities["suffix"] in ECHO_PLANAR_SUFFIXES:
            data += [own.deformed_to_anchor, own.deformed_from_anchor]
            others.append(own.figure_of("distortion"))
    data.append(outputs.srstd)
    if target.series is None:
        data += [outputs.trusted_mask, outputs.flags, outputs.scaffold_npz]
        others.append(outputs.flags_tsv)
    else:
        data.append(outputs.srnoisestd)
        others += [outputs.figure_of(kind) for kind in (*dict.fromkeys(target.series.kinds), "difference")]
        for image in (
            outputs.sr, outputs.simulated, outputs.residual, outputs.srstd, outputs.srnoisestd,
        ):  # fmt: skip
            others += companions(target, image).values()
    if target.movement(naming.motion) != "none":
        others += _motion_files(target, naming)
    return [*data, *map(json_path, data), *others]


def _motion_files(target: TargetPlan, naming: Naming) -> list[Path]:
    if target.series is not None:
        outputs = target_outputs(naming.out_dir, target.entities, naming.resolution, naming.space)
        table = outputs.confounds_tsv
        return [table, json_path(table), outputs.figure_of("confounds")]
    every = [stack_outputs(stack, target, naming) for stack in target.stacks]
    return [
        path for own in every for path in (own.motion_tsv, json_path(own.motion_tsv), own.figure_of("motion"))
    ]


def named_targets(
    targets: Sequence[TargetPlan], naming: Naming
) -> tuple[list[TargetPlan], list[tuple[str, str]]]:
    """The targets whose files can have their names, and label and message of the others."""
    good, failures = [], []
    for target in targets:
        try:
            _check_names(target, naming)
            good.append(target)
        except InputError as error:
            failures.append((target.label, str(error)))
    return good, failures


def _check_names(target: TargetPlan, naming: Naming) -> None:
    """Raise InputError where the file system would refuse a file, after all the computing."""
    paths = target_files(target, naming)
    longest = max(paths, key=lambda path: len(os.fsencode(path.name)))
    n_bytes = len(os.fsencode(longest.name))
    if n_bytes > MAX_NAME_BYTES:
        raise InputError(
            f"{target.source.path.name}: its output {longest.name} has a name of {n_bytes} bytes, expected "
            f"at most {MAX_NAME_BYTES}; shorten the longest label of the image's name in the dataset"
        )
    n_bytes = max(
        len(os.fsencode(path.parent)) + 1 + max(len(os.fsencode(path.name)), LONGEST_TEMPORARY)
        for path in paths
    )
    if n_bytes > MAX_PATH_BYTES:
        raise InputError(
            f"{target.source.path.name}: its outputs have paths of up to {n_bytes} bytes, expected at most "
            f"{MAX_PATH_BYTES}; choose an output folder with a shorter path"
        )


def remove_old_files(target: TargetPlan, naming: Naming) -> None:
    """Remove what an earlier run has left of a target, right before its files are written again.

    The metrics, which say that it is finished, go first, and sidecars last: at no moment does an image stand
    without its sidecar, or with the sidecar of another one.
    """
    paths = dict.fromkeys([*target_files(target, naming), *_motion_files(target, naming)])
    for path in sorted(
        paths, key=lambda path: (not path.name.endswith("_metrics.tsv"), path.suffix == ".json")
    ):
        path.unlink(missing_ok=True)
