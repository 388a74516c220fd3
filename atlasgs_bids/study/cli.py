"""Command line of the study -> StudyConfig; nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from atlasgs_bids.bids.entities import FILTER_ENTITIES, INPUT_SUFFIXES
from atlasgs_bids.runtime import options
from atlasgs_bids.runtime.environment import stand_in_for_user
from atlasgs_bids.study.settings import (
    CALIBRATIONS,
    DEGRADATIONS,
    METHODS,
    MORE_METHODS,
    TARGET_SUFFIXES,
    NetworkSettings,
    PaperSettings,
    StudyConfig,
)
from atlasgs_bids.version import __version__

DEFAULTS = StudyConfig(bids_dir=Path(), out_dir=Path())
_FOLDER = click.Path(path_type=Path, file_okay=False)


def _choices(known: tuple[str, ...]) -> Any:
    """Callback: several of a list, commas allowed."""

    def check(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
        given = [part for value in values for part in value.split(",") if part]
        for name in given:
            if name not in known:
                raise click.BadParameter(f"{name!r}, expected some of {', '.join(known)}", ctx, param)
        return tuple(dict.fromkeys(given))

    return check


def _factors(ctx: click.Context, param: click.Parameter, values: tuple[Any, ...]) -> tuple[int, ...]:
    given = [part for value in values for part in str(value).split(",") if part]
    for text in given:
        if not (text.isdigit() and 2 <= int(text) <= 99):
            raise click.BadParameter(f"{text!r}, expected whole numbers from 2 to 99", ctx, param)
    return tuple(dict.fromkeys(int(text) for text in given))


@click.command(
    cls=options.SpaceListCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Put options after BIDS_DIR and OUT_DIR. A study can be interrupted and continued, and several "
    "processes may work on one OUT_DIR, each on its own factors or methods. Exit codes: 0 all done, 1 a cell "
    "failed (the others went on), 2 wrong usage, 130 interrupted.",
)
@click.argument("bids_dir", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.argument("out_dir", type=_FOLDER)
@click.option(
    "--participant-label", "participant_labels", cls=options.SpaceListOption, callback=options.labels("sub"),
    metavar="LABEL...", help="Participants, with or without sub-; default: all.",
)  # fmt: skip
@click.option(
    "--session-id", "--session-label", "session_ids", cls=options.SpaceListOption,
    callback=options.labels("ses"), metavar="LABEL...", help="Sessions, with or without ses-; default: all.",
)  # fmt: skip
@click.option(
    "--bids-filter-file", "bids_filters", type=click.Path(path_type=Path, dir_okay=False, exists=True),
    callback=options.filters(INPUT_SUFFIXES, FILTER_ENTITIES),
    help="JSON file that narrows the inputs, as for atlasgs.",
)  # fmt: skip
@click.option(
    "-d", "--derivatives", cls=options.SpaceListOption, callback=options.named_folders,
    metavar="NAME=PATH...", help="Derivatives with masks of brain and lesions, besides those in the dataset.",
)  # fmt: skip
@click.option(
    "--targets", cls=options.SpaceListOption, callback=_choices(TARGET_SUFFIXES), default=TARGET_SUFFIXES,
    show_default=True, metavar="SUFFIX...", help="Kinds of image to degrade and restore.",
)  # fmt: skip
@click.option(
    "--factors", cls=options.SpaceListOption, callback=_factors,
    default=[str(factor) for factor in DEFAULTS.factors], show_default=True, metavar="N...",
    help="Thickness of the simulated slices, voxels.",
)  # fmt: skip
@click.option(
    "--axis", type=click.Choice(["slice", "0", "1", "2"]), default=DEFAULTS.axis, show_default=True,
    help="Voxel axis of the T1w through the slices; slice: as the target's header says, else its third.",
)  # fmt: skip
@click.option(
    "--degradation", type=click.Choice(DEGRADATIONS), default=DEFAULTS.degradation, show_default=True,
    help="paper: Gaussian blur of 1 voxel, then mean; box: mean; gaussian: its half width is the thickness.",
)  # fmt: skip
@click.option(
    "--in-plane", "in_plane_mm", type=click.FloatRange(min=0, min_open=True), metavar="MM",
    help="Pixels of the slices, a multiple of the T1w's voxels; default: as these are.",
)  # fmt: skip
@click.option(
    "--noise", "noise_percent", type=click.FloatRange(min=0, max=100), default=DEFAULTS.noise_percent,
    show_default=True, help="Rician noise of the slices, percent of the truth's 99th percentile.",
)  # fmt: skip
@click.option(
    "--motion", type=(click.FloatRange(min=0, max=50), click.FloatRange(min=0, max=45)), metavar="MM DEG",
    default=(DEFAULTS.motion_mm, DEFAULTS.motion_deg), show_default=True,
    help="Movement of the head before the slices; every method then works with the app's registration.",
)  # fmt: skip
@click.option(
    "--registration", type=click.Choice(["header", "rigid"]), default=DEFAULTS.registration,
    show_default=True, help="How the isotropic targets lie on the T1w: as the headers say, or aligned first.",
)  # fmt: skip
@click.option(
    "--methods", cls=options.SpaceListOption, callback=_choices((*METHODS, *MORE_METHODS)), default=METHODS,
    show_default=True, metavar="NAME...",
    help=f"Methods to compare; further ones: {', '.join(MORE_METHODS)}.",
)  # fmt: skip
@click.option(
    "--calibration", "calibrations", cls=options.SpaceListOption, callback=_choices(CALIBRATIONS),
    default=DEFAULTS.calibrations, show_default=True, metavar="KIND...",
    help="known: methods are told position and slice profile; defaults: both are found from the slices, as "
    "the app does, in rows of their own (graph-default).",
)  # fmt: skip
@click.option(
    "--device", callback=options.device, metavar="auto|cpu|cuda[:n]", default=DEFAULTS.device,
    show_default=True, help="Where to compute.",
)  # fmt: skip
@click.option(
    "--nprocs", "n_procs", type=click.IntRange(min=1), default=DEFAULTS.n_procs, show_default=True,
    help="Cells at the same time, each in its own process. Times are then those of a shared machine.",
)  # fmt: skip
@click.option(
    "--omp-nthreads", "n_threads", type=click.IntRange(min=1),
    help="Threads of each process; default: OMP_NUM_THREADS, else the CPUs over --nprocs.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Compute finished cells again.")
@click.option(
    "--output", type=click.Choice(["all", "cells", "tables"]), default=DEFAULTS.output, show_default=True,
    help="cells: write no tables, for processes that share OUT_DIR; tables: compute nothing.",
)  # fmt: skip
@click.option("--keep-images", is_flag=True, help="Keep every restored image under OUT_DIR/images.")
@click.option("--seed", type=click.IntRange(min=0, max=2**32 - 1), default=DEFAULTS.seed, show_default=True)
@click.option(
    "--n-gaussians", type=click.IntRange(min=1), help="Of the app's scaffold; default: the app's own."
)
@click.option("--scaffold-steps", type=click.IntRange(min=0), help="Of the app's scaffold; the same.")
@click.option("--learned-steps", type=click.IntRange(min=1), help="Of the learned prior; the same.")
@click.option(
    "--inr-steps", type=click.IntRange(min=1), default=NetworkSettings().n_steps, show_default=True,
    help="Of the implicit representations.",
)  # fmt: skip
@click.option(
    "--inr-frequency", type=click.FloatRange(min=0, min_open=True),
    default=NetworkSettings().first_frequency, show_default=True, help="Of their first layer.",
)  # fmt: skip
@click.option(
    "--inr-rate", type=click.FloatRange(min=0, min_open=True), default=NetworkSettings().learning_rate,
    show_default=True, help="Their learning rate at the start.",
)  # fmt: skip
@click.option(
    "--inr-anchor-weight", type=click.FloatRange(min=0), default=NetworkSettings().anchor_weight,
    show_default=True, help="Of the T1w beside the slices, in inr-t1.",
)  # fmt: skip
@click.option(
    "--paper-steps", type=click.IntRange(min=1), default=PaperSettings().n_target_steps, show_default=True,
    help="Of the published method, for the T1w and for each target.",
)  # fmt: skip
@click.option(
    "--paper-points", type=click.IntRange(min=8), default=PaperSettings().n_points, show_default=True,
    help="Gaussians of the published method.",
)  # fmt: skip
@click.option(
    "--paper-rate", type=click.FloatRange(min=0, min_open=True), default=PaperSettings().learning_rate,
    show_default=True, help="Learning rate of a target's latents and opacities at the start.",
)  # fmt: skip
@click.option(
    "--paper-smoothness", type=click.FloatRange(min=0), default=PaperSettings().smoothness, show_default=True,
    help="Weight of the difference between latents of neighbours.",
)  # fmt: skip
@click.option("-v", "--verbose", "verbosity", count=True, help="Say more.")
@click.version_option(__version__, prog_name="atlasgs-study")
@click.pass_context
def main(ctx: click.Context, /, **values: Any) -> None:
    """Cut isotropic FLAIR, T2w and PDw images of a BIDS dataset into thick slices, restore them by several
    methods, and score the results against what was cut.

    BIDS_DIR is only ever read. OUT_DIR receives tables, figures and a file for each finished cell; a second
    run computes what is missing. docs/study.md explains methods and metrics.
    """
    config = _config(values)
    stand_in_for_user()
    from atlasgs_bids.study.app import run  # noqa: PLC0415 - loads torch, pybids and nibabel

    ctx.exit(run(config))


def _config(values: dict[str, Any]) -> StudyConfig:
    motion_mm, motion_deg = values.pop("motion")
    network = replace(
        NetworkSettings(),
        n_steps=values.pop("inr_steps"),
        first_frequency=values.pop("inr_frequency"),
        learning_rate=values.pop("inr_rate"),
        anchor_weight=values.pop("inr_anchor_weight"),
    )
    paper_steps = values.pop("paper_steps")
    paper = replace(
        PaperSettings(),
        n_points=values.pop("paper_points"),
        n_anchor_steps=paper_steps,
        n_target_steps=paper_steps,
        learning_rate=values.pop("paper_rate"),
        smoothness=values.pop("paper_smoothness"),
    )
    return StudyConfig(
        bids_dir=values.pop("bids_dir").absolute(),
        out_dir=values.pop("out_dir").absolute(),
        motion_mm=motion_mm,
        motion_deg=motion_deg,
        network=network,
        paper=paper,
        **values,
    )


if __name__ == "__main__":
    main(prog_name="atlasgs-study")
