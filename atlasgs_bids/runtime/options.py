"""What the options of the command line accept: types, checks, and where else their values may come from."""

import json
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import click

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENVIRONMENT_PREFIX = "ATLASGS_"
OTHERS_INPUTS = ("bold", "fmap", "pet", "roi", "sbref")
"""Keys of a filter file of fMRIPrep and its relatives for what is no input here: one file serves them all."""


class SpaceListOption(click.Option):
    """An option that takes one or more values: every argument up to the next one that starts with ``-``."""

    def __init__(self, param_decls: Sequence[str], **attributes: Any) -> None:
        attributes["multiple"] = True
        super().__init__(param_decls, **attributes)


class SpaceListCommand(click.Command):
    """A command that turns ``--option a b`` of a SpaceListOption into ``--option a --option b``.

    ``--participant_label``, as other BIDS Apps have it, is ``--participant-label``; so for every long option.
    Every option also takes its value from an environment variable: ATLASGS_DEVICE for ``--device``.
    """

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        for option in self.params:
            if isinstance(option, click.Option) and option.expose_value:
                option.envvar = ENVIRONMENT_PREFIX + long_name(option).replace("-", "_").upper()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, self._repeated(self._hyphenated(args)))
        except click.MissingParameter as error:
            raise click.UsageError(
                f"{error.format_message()} A list of labels takes every value up to the next option: "
                "write BIDS_DIR OUT_DIR LEVEL first, or end the list with --",
                ctx,
            ) from error

    def _hyphenated(self, args: Sequence[str]) -> list[str]:
        names = {name for param in self.params for name in param.opts if name.startswith("--")}
        end = args.index("--") if "--" in args else len(args)
        hyphenated = []
        for arg in args[:end]:
            name, equals, value = arg.partition("=")
            spelled = name.replace("_", "-")
            hyphenated.append(f"{spelled}{equals}{value}" if spelled in names else arg)
        return [*hyphenated, *args[end:]]

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


def resolution(ctx: click.Context, param: click.Parameter, value: str) -> str | float:
    if value in ("iso", "anchor", "native"):
        return value
    try:
        voxel_mm = float(value)
    except ValueError as error:
        text = f"{value!r} is neither iso nor anchor nor native nor a voxel size in mm"
        raise click.BadParameter(text, ctx, param) from error
    if not 0.05 <= voxel_mm <= 20:
        raise click.BadParameter(f"a voxel size of {value} mm, expected 0.05 to 20", ctx, param)
    return voxel_mm


def slice_profile(ctx: click.Context, param: click.Parameter, value: str) -> str | Path:
    if value in ("auto", "box", "gaussian"):
        return value
    if not Path(value).is_file():
        text = f"{value!r} is neither auto nor box nor gaussian nor a file with two columns"
        raise click.BadParameter(text, ctx, param)
    return Path(value).absolute()


def slice_thickness(
    suffixes: Collection[str],
) -> Callable[[click.Context, click.Parameter, Sequence[str]], dict[str, float]]:
    """Callback for ``5`` or ``FLAIR=5``, by one of the suffixes; ``""``: every other target."""

    def clean(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, float]:
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
                text = f"{value!r}, expected more than 0 and less than 100 mm"
                raise click.BadParameter(text, ctx, param)
        return thickness_mm

    return clean


def device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise click.BadParameter(f"{value!r}, expected auto, cpu, cuda or cuda:n", ctx, param)
    return value


def labels(key: str) -> Callable[[click.Context, click.Parameter, Sequence[str]], tuple[str, ...]]:
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


def label(key: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Callback for one label, with or without ``key-``."""

    def clean(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        if value is None:
            return None
        given = labels(key)(ctx, param, [value])
        if len(given) != 1:
            raise click.BadParameter(f"{value!r}, expected one label", ctx, param)
        return given[0]

    return clean


def batch(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The name of a batch, which is a folder's too."""
    if value is not None and not re.fullmatch(r"[0-9a-zA-Z][\w.+-]{0,63}", value, re.ASCII):
        text = f"{value!r}, expected a word of at most 64 letters, digits and .+-_"
        raise click.BadParameter(text, ctx, param)
    return value


def filters(
    kinds: Collection[str], entities: Collection[str]
) -> Callable[[click.Context, click.Parameter, Path | None], dict[str, dict[str, Any]]]:
    """Callback for the content of a --bids-filter-file, its kinds of input and entities checked."""

    def clean(ctx: click.Context, param: click.Parameter, path: Path | None) -> dict[str, dict[str, Any]]:
        if path is None:
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise click.BadParameter(f"{path} is not valid JSON ({error})", ctx, param) from error
        if not isinstance(content, dict) or not all(isinstance(query, dict) for query in content.values()):
            raise click.BadParameter(f'{path}: expected {{"t1w": {{"acquisition": "mprage"}}}}', ctx, param)
        ignored = [kind for kind in content if kind in OTHERS_INPUTS]
        if ignored:
            click.echo(f"{path}: {', '.join(ignored)}: no input of this command, ignored", err=True)
        queries = {kind: query for kind, query in content.items() if kind not in ignored}
        for kind, query in queries.items():
            if kind not in kinds:
                known = ", ".join(kinds)
                raise click.BadParameter(f"{path}: unknown input {kind!r}, expected {known}", ctx, param)
            for name in query:
                if name not in entities and not name[:1].isupper():  # capitals: a field of the sidecar
                    raise click.BadParameter(
                        f"{path}: {kind}: unknown entity {name!r}, expected pybids' long names such as "
                        "session, acquisition, run, reconstruction or a sidecar field",
                        ctx,
                        param,
                    )
        return queries

    return clean


def named_folders(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, Path]:
    """NAME=PATH, each an existing folder."""
    folders = {}
    for value in values:
        name, _, path = value.partition("=")
        if not re.fullmatch(r"[\w.+-]+", name) or not path:
            raise click.BadParameter(
                f"{value!r}, expected NAME=PATH such as fmriprep=/data/fmriprep", ctx, param
            )
        if not Path(path).is_dir():
            raise click.BadParameter(f"{name}: {path} is no folder", ctx, param)
        folders[name] = Path(path).absolute()
    return folders


_MIB = {"K": 2**-10, "M": 1.0, "G": 2.0**10, "T": 2.0**20}


def memory_mib(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """``8G``, ``8GB`` or ``8GiB`` (powers of 1024); a bare number is in MB."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:i?B)?)?", str(value).strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        text = f"{value!r}, expected a number with a suffix, such as 8G; a bare number is in MB"
        raise click.BadParameter(text, ctx, param)
    return float(match[1]) * _MIB[(match[2] or "M").upper()]


def long_name(option: click.Option) -> str:
    """``device`` of ``--device``: the first long name, which the file and the environment know it by.

    >>> long_name(click.Option(["-w", "--work-dir"]))
    'work-dir'
    """
    return next(name for name in option.opts if name.startswith("--")).removeprefix("--")


def read_config_file(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Let a TOML file state options; the command line and the environment win over it."""
    if path is None:
        return
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path} is not valid TOML ({error})", ctx, param) from error
    options = {
        name.removeprefix("--"): option
        for option in ctx.command.params
        if isinstance(option, click.Option) and option.expose_value
        for name in option.opts
        if name.startswith("--")
    }
    stated = {}
    for key, value in content.items():
        option = options.get(key.replace("_", "-"))
        if option is None:
            known = ", ".join(sorted(options))
            raise click.UsageError(f"{path}: unknown option {key!r}, expected one of {known}", ctx)
        if isinstance(value, dict):
            raise click.UsageError(f"{path}: {key} is a table, expected a value", ctx)
        if isinstance(value, list) and not option.multiple:
            raise click.UsageError(f"{path}: {key} is a list, expected one value", ctx)
        stated[option.name or ""] = [value] if option.multiple and not isinstance(value, list) else value
    ctx.default_map = {**(ctx.default_map or {}), **stated}
