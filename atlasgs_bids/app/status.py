"""Command line of ``atlasgs-status``: what became of everybody, for whoever looks after a thousand."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlasgs_bids.app.config import resolve_out_dir
from atlasgs_bids.errors import ConfigurationError, listed
from atlasgs_bids.runtime import options
from atlasgs_bids.version import __version__

if TYPE_CHECKING:
    from atlasgs_bids.app.outcomes import Status

EXIT_DONE, EXIT_NOT_DONE, EXIT_USAGE = 0, 1, 2


@click.command(
    cls=options.SpaceListCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 everything is done, 1 something failed, is missing or still runs, 2 wrong usage.",
)
@click.argument("out_dir", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--bids-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The dataset, whose participants are expected; default: the one that OUT_DIR was made from.",
)
@click.option(
    "--participant-label",
    "participant_labels",
    cls=options.SpaceListOption,
    callback=options.labels("sub"),
    metavar="LABEL...",
    help="Participants to look at, with or without sub-; default: all.",
)
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON, each target by itself.")
@click.version_option(__version__, prog_name="atlasgs-status")
@click.pass_context
def main(
    ctx: click.Context,
    out_dir: Path,
    bids_dir: Path | None,
    participant_labels: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say which targets of OUT_DIR are done, failed (and why), running or missing, and which were made with
    other options than the rest. It reads, and changes nothing: call it whenever you like.
    """
    from atlasgs_bids.app.outcomes import status_of  # noqa: PLC0415 - loads numpy, which --help needs not

    try:
        status = status_of(resolve_out_dir(out_dir), bids_dir, participant_labels)
    except ConfigurationError as error:
        click.echo(f"Error: {error}", err=True)
        ctx.exit(EXIT_USAGE)
    click.echo(json.dumps(asdict(status), indent=2) if as_json else "\n".join(_lines(status)))
    ctx.exit(EXIT_DONE if status.all_done else EXIT_NOT_DONE)


def _lines(status: "Status") -> list[str]:
    counts = ", ".join(f"{number} {state}" for state, number in status.counts.items())
    lines = []
    for outcome in status.outcomes:
        if outcome.state in ("failed", "running"):
            where = f" ({outcome.details})" if outcome.details else ""
            lines.append(f"{outcome.state:8} {outcome.label}: {outcome.said}{where}")
    missing: dict[str, list[str]] = {}
    for outcome in status.outcomes:
        if outcome.state == "missing":
            missing.setdefault(outcome.said, []).append(outcome.label)
    lines += [f"missing  {listed(labels)}: {why}" for why, labels in missing.items()]
    for variant in status.variants:
        made = f"{len(variant.labels)} with {_shown(variant.settings)}"
        lines.append(f"options  {variant.kind}: {made}: {listed(variant.labels)}")
    if status.dataset is None:
        lines.append("the dataset is not here, so who never began is not missed; --bids-dir says where it is")
    return [*lines, f"{status.n_participants} participants: {counts}"]


def _shown(settings: Mapping[str, Any]) -> str:
    """Settings as a user would type them."""
    words = []
    for name, value in settings.items():
        if name == "version":
            words.append(f"AtlasGS {value}")
        elif value in (None, False, []):
            words.append(f"no --{name}")
        else:
            words.append(f"--{name}" + ("" if value is True else f" {value}"))
    return ", ".join(words) or "other settings"


if __name__ == "__main__":
    main(prog_name="atlasgs-status")
