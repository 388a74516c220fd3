"""Command line -> RunConfig; nothing else.

Longer than 300 lines: each option is a paragraph of its own, and all of them stand where --help shows them.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from atlasgs_bids.app.config import RunConfig, resolve_out_dir
from atlasgs_bids.bids.entities import ANCHOR_SUFFIXES, FILTER_ENTITIES, INPUT_SUFFIXES, RESTORED_SUFFIXES
from atlasgs_bids.bids.plan.settings import PlanSettings
from atlasgs_bids.core.settings import (
    GEOMETRY_MODES,
    AppearanceSettings,
    CoreSettings,
    GeometrySettings,
    ScaffoldSettings,
)
from atlasgs_bids.restoration.settings import REGISTRATIONS, RestorationSettings
from atlasgs_bids.runtime import options
from atlasgs_bids.runtime.environment import stand_in_for_user
from atlasgs_bids.version import __version__

DEFAULTS = RunConfig(bids_dir=Path(), out_dir=Path(), analysis_level="participant")
_CORE = DEFAULTS.restoration.core
_SCAFFOLD, _APPEARANCE = _CORE.scaffold, _CORE.appearance
_PLAN = ("anchor", "anchor_session", "slice_thickness_mm", "combine_stacks")
_RESTORATION = ("device", "n_threads", "registration", "prior", "fast", "resolution", "motion")


_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(
    cls=options.SpaceListCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Put options after BIDS_DIR, OUT_DIR and the level; a list of labels ends at the next option or "
    "at --, so that `atlasgs --participant-label 01 02 -- BIDS_DIR OUT_DIR participant` works too. "
    "Every option also has an environment variable (ATLASGS_DEVICE for --device). The command line wins over "
    "the environment, the environment over --config-file. "
    "Exit codes: 0 all done, 1 a participant failed (the others went on), 2 wrong usage.",
)
@click.argument("bids_dir", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.argument("out_dir", type=_FOLDER)
@click.argument("analysis_level", type=click.Choice(["participant", "group"]))
@click.option(
    "--participant-label",
    "participant_labels",
    cls=options.SpaceListOption,
    callback=options.labels("sub"),
    metavar="LABEL...",
    help="Participants to process, with or without sub-; default: all.",
)
@click.option(
    "--session-id",
    "--session-label",
    "session_ids",
    cls=options.SpaceListOption,
    callback=options.labels("ses"),
    metavar="LABEL...",
    help="Sessions to process, with or without ses-; default: all.",
)
@click.option(
    "--anchor",
    type=click.Choice(["auto", *ANCHOR_SUFFIXES]),
    default=DEFAULTS.plan.anchor,
    show_default=True,
    help="Isotropic image that the others are restored after; auto: the first of these that there is.",
)
@click.option(
    "--anchor-session",
    callback=options.label("ses"),
    metavar="LABEL",
    help="Session whose image is the anchor of every session; default: each session has its own.",
)
@click.option(
    "--scaffold",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Gaussians (npz, or PLY edited in a viewer) to use instead of those that are placed on the T1w.",
)
@click.option(
    "--bids-filter-file",
    "bids_filters",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    callback=options.filters(INPUT_SUFFIXES, FILTER_ENTITIES),
    help=f"JSON file that narrows the inputs: keys {', '.join(INPUT_SUFFIXES)}, each with pybids entities.",
)
@click.option("--skip-bids-validation", is_flag=True, help="Do not validate the dataset first.")
@click.option(
    "--bids-database-dir",
    type=_FOLDER,
    help="Folder that keeps the index of each participant for later runs; made anew where files changed.",
)
@click.option(
    "-d",
    "--derivatives",
    cls=options.SpaceListOption,
    callback=options.named_folders,
    metavar="NAME=PATH...",
    help="Results of other pipelines, such as fmriprep=/data/derivatives/fmriprep.",
)
@click.option(
    "--targets-from",
    metavar="NAME",
    help="Preprocessed DWI or ASL series of one of the -d, in their own geometry, in place of the raw ones.",
)
@click.option("-w", "--work-dir", type=_FOLDER, help="Folder for caches; default: a temporary one.")
@click.option(
    "--nprocs",
    "n_procs",
    type=click.IntRange(min=1),
    default=DEFAULTS.n_procs,
    show_default=True,
    help="Participants at the same time, each in a process of its own; several GPUs are taken in turn.",
)
@click.option(
    "--omp-nthreads",
    "n_threads",
    type=click.IntRange(min=1),
    default=DEFAULTS.restoration.n_threads,
    help="Threads of each process; default: OMP_NUM_THREADS, else the CPUs over --nprocs.",
)
@click.option(
    "--mem",
    "memory_mib",
    callback=options.memory_mib,
    metavar="NUMBER[K|M|G|T]",
    help="Memory that may be planned with (bare number: MB): bounds how many participants run at once, by "
    "an estimate from their T1w, and the size of chunks on the CPU. No hard limit.",
)
@click.option(
    "--worker",
    callback=options.batch,
    metavar="BATCH",
    help="Be one of several processes, here or on other machines, that share the sessions of one OUT_DIR "
    "until nothing is left; what fails is not tried again by workers of the same name (any word).",
)
@click.option(
    "--device",
    callback=options.device,
    metavar="auto|cpu|cuda[:n]",
    default=DEFAULTS.restoration.device,
    show_default=True,
    help="Where to compute.",
)
@click.option(
    "--stop-on-first-crash", is_flag=True, help="Stop everything when something fails; default: go on."
)
@click.option("--overwrite", is_flag=True, help="Do finished targets again; default: skip them.")
@click.option(
    "--reports-only",
    is_flag=True,
    help="Draw figures and pages and write the tables' dictionaries again from results; fit nothing.",
)
@click.option(
    "--export",
    type=click.Choice(["none", "raw"]),
    default=DEFAULTS.export,
    show_default=True,
    help="raw: also write OUT_DIR/derivatives/raw, a dataset of the T1w and the restored images that looks "
    "raw, for tools that take no derivatives; see its README.",
)
@click.option(
    "--no-viewer",
    is_flag=True,
    help="Leave the viewer out of the pages: slices can still be scrolled through.",
)
@click.option(
    "--resource-monitor", is_flag=True, help="Write time and memory of every stage to OUT_DIR/logs."
)
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("--notrack", is_flag=True, help="Accepted for compatibility: nothing is ever tracked.")
@click.option(
    "--config-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    callback=options.read_config_file,
    is_eager=True,
    expose_value=False,
    envvar=f"{options.ENVIRONMENT_PREFIX}CONFIG_FILE",
    help='TOML file with options by their long names, such as device = "cpu".',
)
@click.option("-v", "--verbose", "verbosity", count=True, help="Say more.")
@click.option(
    "--registration",
    type=click.Choice(REGISTRATIONS),
    default=DEFAULTS.restoration.registration,
    show_default=True,
    help="Where the targets lie: rigid, from the slices and the T1w; deformable: diffusion and ASL images "
    "are displaced along their phase-encoding axis as well; auto: those of them whose held-out slices "
    "confirm it; header: as the headers say.",
)
@click.option(
    "--prior",
    type=click.Choice(["auto", "graph", "learned"]),
    default=DEFAULTS.restoration.prior,
    show_default=True,
    help="What fills the space between slices: edges of the T1w, or a network trained on the target's own "
    "slices; auto: learned for images on a GPU, graph for series and on the CPU.",
)
@click.option("--fast", is_flag=True, help="A smaller network: seconds less, and up to 0.5 dB.")
@click.option(
    "--motion",
    type=click.Choice(["none", "volume", "slice"]),
    default=DEFAULTS.restoration.motion,
    show_default=True,
    help="volume: correct the movement between the volumes of a series, where the evidence is for it; slice: "
    "that, and movement and intensity steps between the slices of 3-D targets.",
)
@click.option(
    "--no-uncertainty",
    is_flag=True,
    help="Leave out desc-srstd, the standard deviation of each result, and the time that it takes.",
)
@click.option(
    "--resolution",
    callback=options.resolution,
    metavar="iso|anchor|native|MM",
    default=str(DEFAULTS.restoration.resolution),
    show_default=True,
    help="Output voxels: isotropic at the T1w's smallest side, the T1w's own grid, isotropic at each "
    "target's pixel size (native), or a size in mm.",
)
@click.option(
    "--slice-profile",
    callback=options.slice_profile,
    metavar="auto|box|gaussian|FILE",
    default=str(DEFAULTS.restoration.slice_profile),
    show_default=True,
    help="Sensitivity through a slice; auto: as the slices show it; FILE: columns of offset, mm, and weight.",
)
@click.option(
    "--slice-thickness",
    "slice_thickness_mm",
    cls=options.SpaceListOption,
    callback=options.slice_thickness(RESTORED_SUFFIXES),
    metavar="MM|SUFFIX=MM...",
    help="Slice thickness, for all targets (5) or by kind (FLAIR=5 T2w=4), before that of the sidecars.",
)
@click.option(
    "--combine-stacks",
    type=click.Choice(["none", "orthogonal", "all"]),
    default=DEFAULTS.plan.combine_stacks,
    show_default=True,
    help="Restore stacks of one contrast together: those in different directions, repeats too, or none.",
)
@click.option(
    "--n-gaussians",
    type=click.IntRange(min=1),
    default=_SCAFFOLD.n_gaussians,
    help="Most Gaussians of the scaffold, on a lattice as wide as it takes; default: one for each foreground "
    f"voxel, at most {_SCAFFOLD.max_gaussians:,}.",
)
@click.option(
    "--scaffold-steps",
    type=click.IntRange(min=0),
    default=_SCAFFOLD.n_steps,
    show_default=True,
    help="Most steps that move the Gaussians off their lattice to fit the T1w; for few of them.",
)
@click.option(
    "--geometry",
    type=click.Choice(GEOMETRY_MODES),
    default=_CORE.geometry.mode,
    show_default=True,
    help="Gaussians of a target: the T1w's as they are; shifted and scaled a little to fit its slices; "
    "fitted freely from there; or fitted to the target alone.",
)
@click.option(
    "--regularization",
    type=click.FloatRange(min=0, min_open=True),
    default=_APPEARANCE.regularization,
    help="Weight of the prior; default: chosen by generalised cross-validation.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
    default=_APPEARANCE.tolerance,
    show_default=True,
    help="Relative residual at which a target's solution is done.",
)
@click.option(
    "--max-iterations",
    type=click.IntRange(min=1),
    default=_APPEARANCE.max_iterations,
    show_default=True,
    help="Most steps of a target's solution.",
)
@click.option("--seed", type=click.IntRange(min=0, max=2**32 - 1), default=_CORE.seed, show_default=True)
@click.version_option(__version__, prog_name="atlasgs")
@click.pass_context
def main(ctx: click.Context, /, **values: Any) -> None:
    """Restore thick-slice FLAIR, T2w, PDw, diffusion and ASL images of a BIDS dataset at isotropic
    resolution, in the space of each participant's own T1w image.

    BIDS_DIR is the dataset and is only ever read. OUT_DIR receives the results; a folder called derivatives
    gets atlasgs appended. The level is participant, then group, which gathers the metrics.
    """
    if values["overwrite"] and values["reports_only"]:
        raise click.UsageError(
            "--reports-only fits nothing, so --overwrite has no use beside it; drop one", ctx
        )
    config = _config(values)
    stand_in_for_user()
    from atlasgs_bids.app.run import run  # noqa: PLC0415 - loads pybids and nibabel

    ctx.exit(run(config))


def _config(values: dict[str, Any]) -> RunConfig:
    core = CoreSettings(
        scaffold=replace(
            ScaffoldSettings(), n_gaussians=values.pop("n_gaussians"), n_steps=values.pop("scaffold_steps")
        ),
        appearance=replace(
            AppearanceSettings(),
            regularization=values.pop("regularization"),
            tolerance=values.pop("tolerance"),
            max_iterations=values.pop("max_iterations"),
        ),
        geometry=replace(GeometrySettings(), mode=values.pop("geometry")),
        seed=values.pop("seed"),
    )
    values.pop("notrack")
    values["viewer"] = not values.pop("no_viewer")
    estimate_uncertainty = not values.pop("no_uncertainty")
    work_dir, database_dir = values.pop("work_dir"), values.pop("bids_database_dir")
    scaffold, profile = values.pop("scaffold"), values.pop("slice_profile")
    return RunConfig(
        bids_dir=values.pop("bids_dir").absolute(),
        out_dir=resolve_out_dir(values.pop("out_dir")),
        work_dir=work_dir.absolute() if work_dir else None,
        bids_database_dir=database_dir.absolute() if database_dir else None,
        scaffold=scaffold.absolute() if scaffold else None,
        slice_profile_file=profile if isinstance(profile, Path) else None,
        plan=PlanSettings(**{name: values.pop(name) for name in _PLAN}),
        restoration=RestorationSettings(
            core=core,
            estimate_uncertainty=estimate_uncertainty,
            slice_profile=DEFAULTS.restoration.slice_profile if isinstance(profile, Path) else profile,
            **{name: values.pop(name) for name in _RESTORATION},
        ),
        **values,
    )
