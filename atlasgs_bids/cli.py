"""Command line -> RunConfig; nothing else."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from atlasgs_bids import __version__
from atlasgs_bids.bids.entities import ENTITIES, INPUT_SUFFIXES
from atlasgs_bids.config import RunConfig, resolve_out_dir
from atlasgs_bids.core.settings import AppearanceSettings, CoreSettings, ScaffoldSettings

DEFAULTS = RunConfig(bids_dir=Path(), out_dir=Path(), analysis_level="participant")
_SCAFFOLD, _APPEARANCE = DEFAULTS.core.scaffold, DEFAULTS.core.appearance


class SpaceListOption(click.Option):
    """An option that takes one or more values: every argument up to the next one that starts with ``-``."""

    def __init__(self, param_decls: Sequence[str], **attributes: Any) -> None:
        attributes["multiple"] = True
        super().__init__(param_decls, **attributes)


class SpaceListCommand(click.Command):
    """A command that turns ``--option a b`` of a SpaceListOption into ``--option a --option b``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, self._repeated(args))
        except click.MissingParameter as error:
            raise click.UsageError(
                f"{error.format_message()} A list of labels takes every value up to the next option: "
                "write BIDS_DIR OUT_DIR LEVEL first, or end the list with --",
                ctx,
            ) from error

    def _repeated(self, args: Sequence[str]) -> list[str]:
        names = {name for p in self.params if isinstance(p, SpaceListOption) for name in p.opts}
        repeated: list[str] = []
        option, n_values = None, 0
        for position, arg in enumerate(args):
            if arg == "--":
                return [*repeated, *args[position:]]
            if arg.startswith("-"):
                option, n_values = (arg if arg in names else None), 0
            elif option is not None:
                repeated += [option] if n_values else []
                n_values += 1
            repeated.append(arg)
        return repeated


def _resolution(ctx: click.Context, param: click.Parameter, value: str) -> str | float:
    if value in ("iso", "anchor"):
        return value
    try:
        voxel_mm = float(value)
    except ValueError as error:
        text = f"{value!r} is neither iso nor anchor nor a voxel size in mm"
        raise click.BadParameter(text, ctx, param) from error
    if not 0.05 <= voxel_mm <= 20:
        raise click.BadParameter(f"a voxel size of {value} mm, expected 0.05 to 20", ctx, param)
    return voxel_mm


def _slice_profile(ctx: click.Context, param: click.Parameter, value: str) -> str | Path:
    if value in ("box", "gaussian"):
        return value
    if not Path(value).is_file():
        text = f"{value!r} is neither box nor gaussian nor a file with two columns"
        raise click.BadParameter(text, ctx, param)
    return Path(value).absolute()


def _slice_thickness(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, float]:
    """``5`` or ``FLAIR=5``, by suffix; ``""``: every other target."""
    suffixes = [suffix for kind, suffix in INPUT_SUFFIXES.items() if kind != "t1w"]
    thickness_mm = {}
    for value in values:
        suffix, _, number = value.rpartition("=")
        if suffix and suffix not in suffixes:
            text = f"{value!r}: {suffix!r} is no target, expected one of {', '.join(suffixes)}"
            raise click.BadParameter(text, ctx, param)
        try:
            thickness_mm[suffix] = float(number)
        except ValueError as error:
            text = f"{value!r}, expected mm for all targets (5) or for one kind (FLAIR=5)"
            raise click.BadParameter(text, ctx, param) from error
        if not 0 < thickness_mm[suffix] < 100:
            raise click.BadParameter(f"{value!r}, expected more than 0 and less than 100 mm", ctx, param)
    return thickness_mm


def _device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise click.BadParameter(f"{value!r}, expected auto, cpu, cuda or cuda:n", ctx, param)
    return value


def _labels(key: str) -> Callable[[click.Context, click.Parameter, Sequence[str]], tuple[str, ...]]:
    """Callback that splits commas, takes ``key-`` off and refuses what is no label."""

    def clean(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
        given = [part for value in values for part in re.split(r"[,\s]+", value) if part]
        labels = [part.removeprefix(f"{key}-") for part in given]
        for label in labels:
            if not re.fullmatch(r"[0-9a-zA-Z+]+", label):
                text = f"{label!r} is no label (letters and digits); a list ends at the next option or at --"
                raise click.BadParameter(text, ctx, param)
        return tuple(dict.fromkeys(labels))

    return clean


def _label(key: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Callback for one label, with or without ``key-``."""

    def clean(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        if value is None:
            return None
        labels = _labels(key)(ctx, param, [value])
        if len(labels) != 1:
            raise click.BadParameter(f"{value!r}, expected one label", ctx, param)
        return labels[0]

    return clean


def _filters(ctx: click.Context, param: click.Parameter, path: Path | None) -> dict[str, dict[str, Any]]:
    """Content of a --bids-filter-file, its keys checked."""
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path} is not valid JSON ({error})", ctx, param) from error
    if not isinstance(content, dict) or not all(isinstance(query, dict) for query in content.values()):
        raise click.BadParameter(f'{path}: expected {{"t1w": {{"acquisition": "mprage"}}}}', ctx, param)
    entities = {name for _, name in ENTITIES} | {"suffix", "datatype", "extension"}
    for kind, query in content.items():
        if kind not in INPUT_SUFFIXES:
            known = ", ".join(INPUT_SUFFIXES)
            raise click.BadParameter(f"{path}: unknown input {kind!r}, expected {known}", ctx, param)
        for name in query:
            if name not in entities and not name[:1].isupper():  # capitals: a field of the sidecar
                raise click.BadParameter(
                    f"{path}: {kind}: unknown entity {name!r}, expected pybids' long names such as "
                    "session, acquisition, run, reconstruction or a sidecar field",
                    ctx,
                    param,
                )
    return content


_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(
    cls=SpaceListCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Put options after BIDS_DIR, OUT_DIR and the level; a list of labels ends at the next option or "
    "at --, so that `atlasgs --participant-label 01 02 -- BIDS_DIR OUT_DIR participant` works too. "
    "Exit codes: 0 all done, 1 a participant failed (the others went on), 2 wrong usage.",
)
@click.argument("bids_dir", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.argument("out_dir", type=_FOLDER)
@click.argument("analysis_level", type=click.Choice(["participant", "group"]))
@click.option(
    "--participant-label",
    "participant_labels",
    cls=SpaceListOption,
    callback=_labels("sub"),
    metavar="LABEL...",
    help="Participants to process, with or without sub-; default: all.",
)
@click.option(
    "--session-id",
    "--session-label",
    "session_ids",
    cls=SpaceListOption,
    callback=_labels("ses"),
    metavar="LABEL...",
    help="Sessions to process, with or without ses-; default: all.",
)
@click.option(
    "--anchor-session",
    callback=_label("ses"),
    metavar="LABEL",
    help="Session whose T1w is the anchor of every session; default: each session has its own.",
)
@click.option(
    "--scaffold",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Gaussians (npz, or PLY edited in a viewer) to use instead of fitting them to the T1w.",
)
@click.option(
    "--bids-filter-file",
    "bids_filters",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    callback=_filters,
    help=f"JSON file that narrows the inputs: keys {', '.join(INPUT_SUFFIXES)}, each with pybids entities.",
)
@click.option("--skip-bids-validation", is_flag=True, help="Do not validate the dataset first.")
@click.option("-w", "--work-dir", type=_FOLDER, help="Folder for caches; default: a temporary one.")
@click.option(
    "--device",
    callback=_device,
    metavar="auto|cpu|cuda[:n]",
    default=DEFAULTS.device,
    show_default=True,
    help="Where to compute.",
)
@click.option("--overwrite", is_flag=True, help="Do finished targets again; default: skip them.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("-v", "--verbose", "verbosity", count=True, help="Say more.")
@click.option(
    "--registration",
    type=click.Choice(["rigid", "header"]),
    default=DEFAULTS.registration,
    show_default=True,
    help="Align the targets with the T1w by mutual information, or trust the headers.",
)
@click.option(
    "--prior",
    type=click.Choice(["auto", "graph", "learned"]),
    default=DEFAULTS.prior,
    show_default=True,
    help="What fills the space between slices: edges of the T1w, or a network trained on the target's own "
    "slices; auto: learned on a GPU, graph on the CPU.",
)
@click.option("--fast", is_flag=True, help="A smaller network: seconds less, and up to 0.5 dB.")
@click.option(
    "--motion",
    type=click.Choice(["none", "slice"]),
    default=DEFAULTS.motion,
    show_default=True,
    help="Correct movement and intensity steps between the slices of 3-D targets.",
)
@click.option(
    "--resolution",
    callback=_resolution,
    metavar="iso|anchor|MM",
    default=str(DEFAULTS.resolution),
    show_default=True,
    help="Output voxels: isotropic at the T1w's smallest side, the T1w's own grid, or a size in mm.",
)
@click.option(
    "--slice-profile",
    callback=_slice_profile,
    metavar="box|gaussian|FILE",
    default=str(DEFAULTS.slice_profile),
    show_default=True,
    help="Sensitivity through a slice; FILE: two columns, offset in mm and weight.",
)
@click.option(
    "--slice-thickness",
    "slice_thickness_mm",
    cls=SpaceListOption,
    callback=_slice_thickness,
    metavar="MM|SUFFIX=MM...",
    help="Slice thickness, for all targets (5) or by kind (FLAIR=5 T2w=4), before that of the sidecars.",
)
@click.option(
    "--combine-stacks",
    type=click.Choice(["none", "orthogonal", "all"]),
    default=DEFAULTS.combine_stacks,
    show_default=True,
    help="Restore stacks of one contrast together: those in different directions, repeats too, or none.",
)
@click.option(
    "--n-gaussians",
    type=click.IntRange(min=1),
    default=_SCAFFOLD.n_gaussians,
    help=f"Gaussians of the scaffold; default: {_SCAFFOLD.gaussians_per_voxel:g} for each foreground voxel.",
)
@click.option(
    "--scaffold-steps",
    type=click.IntRange(min=0),
    default=_SCAFFOLD.n_steps,
    show_default=True,
    help="Steps that fit the Gaussians to the T1w.",
)
@click.option(
    "--regularization",
    type=click.FloatRange(min=0, min_open=True),
    default=_APPEARANCE.regularization,
    help="Weight of the prior; default: chosen from held-out slices.",
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
@click.option(
    "--seed", type=click.IntRange(min=0, max=2**32 - 1), default=DEFAULTS.core.seed, show_default=True
)
@click.version_option(__version__, prog_name="atlasgs")
@click.pass_context
def main(ctx: click.Context, /, **options: Any) -> None:
    """Restore thick-slice FLAIR, T2w, PDw, diffusion and ASL images of a BIDS dataset at isotropic
    resolution, in the space of each participant's own T1w image.

    BIDS_DIR is the dataset and is only ever read. OUT_DIR receives the results; a folder called derivatives
    gets atlasgs appended. The level is participant, then group, which gathers the metrics.
    """
    config = _config(options)
    from atlasgs_bids.app import run  # noqa: PLC0415 - loads pybids and nibabel

    ctx.exit(run(config))


def _config(options: dict[str, Any]) -> RunConfig:
    core = CoreSettings(
        scaffold=replace(
            ScaffoldSettings(), n_gaussians=options.pop("n_gaussians"), n_steps=options.pop("scaffold_steps")
        ),
        appearance=replace(
            AppearanceSettings(),
            regularization=options.pop("regularization"),
            tolerance=options.pop("tolerance"),
            max_iterations=options.pop("max_iterations"),
        ),
        seed=options.pop("seed"),
    )
    work_dir, scaffold = options.pop("work_dir"), options.pop("scaffold")
    return RunConfig(
        bids_dir=options.pop("bids_dir").absolute(),
        out_dir=resolve_out_dir(options.pop("out_dir")),
        work_dir=work_dir.absolute() if work_dir else None,
        scaffold=scaffold.absolute() if scaffold else None,
        core=core,
        **options,
    )
