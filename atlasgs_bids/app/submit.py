"""Command line of ``atlasgs-submit``: workers as one SLURM array, and the group level when all have ended."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from atlasgs_bids.app.cli import main as atlasgs
from atlasgs_bids.app.config import resolve_out_dir
from atlasgs_bids.version import __version__

_MOST_TIMEOUTS = 1000
"""A worker that reaches its time limit is queued again: it ends when nothing is left."""
_GROUP = {"cpus_per_task": 1, "mem": "4GB", "time": 60}


@dataclass(frozen=True)
class Invocation:
    """One ``atlasgs`` command as a job, which SLURM may end and start again at any time."""

    arguments: tuple[str, ...]

    def __call__(self) -> None:
        """Raises RuntimeError where the command fails, so that the job does."""
        code = atlasgs(list(self.arguments), prog_name="atlasgs", standalone_mode=False)
        if code:
            raise RuntimeError(f"atlasgs ended with exit code {code}, as its log above says")

    def checkpoint(self) -> Any:
        """What is queued again at a time limit: the same, for what is finished is skipped."""
        from submitit.helpers import DelayedSubmission  # noqa: PLC0415 - an extra

        return DelayedSubmission(self)


def _key_value(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, Any]:
    """``constraint=a100`` or ``exclusive``, as #SBATCH lines have them without the dashes."""
    parameters: dict[str, Any] = {}
    for value in values:
        name, equals, content = value.removeprefix("--").partition("=")
        if not name:
            raise click.BadParameter(f"{value!r}, expected NAME=VALUE such as constraint=a100", ctx, param)
        parameters[name] = content if equals else True
    return parameters


@click.command(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "ignore_unknown_options": True,
    },
    epilog="Needs the extra: pip install 'atlasgs-bids[cluster]'. Other options are those of atlasgs, "
    "checked before anything is submitted. Logs lie in OUT_DIR/logs/batch; atlasgs-status OUT_DIR says how "
    "far it is. Exit codes: 0 submitted, 1 SLURM refused, 2 wrong usage.",
)
@click.argument("bids_dir", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.argument("out_dir", type=click.Path(path_type=Path, file_okay=False))
@click.argument("atlasgs_options", nargs=-1, type=click.UNPROCESSED, metavar="[ATLASGS_OPTION]...")
@click.option("--partition", metavar="NAME", help="Where the jobs run; default: the cluster's.")
@click.option("--account", metavar="NAME", help="Who pays for them.")
@click.option(
    "--workers", "n_workers", type=click.IntRange(min=1), default=4, show_default=True,
    help="Processes that share the participants.",
)  # fmt: skip
@click.option(
    "--gpus-per-worker", "n_gpus", type=click.IntRange(0, 1), default=0, show_default=True,
    help="A worker computes on one GPU, or on the CPU.",
)  # fmt: skip
@click.option(
    "--cpus-per-worker", "n_cpus", type=click.IntRange(min=1), default=4, show_default=True,
    help="Threads of a worker.",
)  # fmt: skip
@click.option(
    "--mem-per-worker", "memory_gb", type=click.FloatRange(min=0, min_open=True), default=12,
    show_default=True, metavar="GB", help="Memory of a worker.",
)  # fmt: skip
@click.option(
    "--time", "minutes", type=click.IntRange(min=1), default=720, show_default=True, metavar="MINUTES",
    help="After which a worker is queued again.",
)  # fmt: skip
@click.option(
    "--slurm", "more", multiple=True, callback=_key_value, metavar="NAME[=VALUE]",
    help="A further option of sbatch, such as constraint=a100; can be given several times.",
)  # fmt: skip
@click.version_option(__version__, prog_name="atlasgs-submit")
@click.pass_context
def main(ctx: click.Context, /, **values: Any) -> None:
    """Process BIDS_DIR into OUT_DIR by workers on a SLURM cluster: one array, then the group level.

    A worker that is preempted, reaches its time limit or loses its node is queued again; the others go on.
    """
    out_dir = resolve_out_dir(values["out_dir"])
    folders = (str(values["bids_dir"].absolute()), str(out_dir))
    batch = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    worker = (*folders, "participant", *values["atlasgs_options"], "--worker", batch)
    if "--omp-nthreads" not in worker:
        worker += ("--omp-nthreads", str(values["n_cpus"]))
    # Raises UsageError for what atlasgs would refuse.
    parsed = atlasgs.make_context("atlasgs", list(worker))
    group = (*folders, "group", *_of_group(parsed))
    try:
        import submitit  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        text = "found no submitit, expected it: pip install 'atlasgs-bids[cluster]'"
        raise click.UsageError(text, ctx) from error
    if shutil.which("sbatch") is None:
        raise click.UsageError("found no sbatch on the PATH, expected SLURM's; submit from a login node", ctx)
    try:
        array, after = _submitted(worker, group, out_dir / "logs" / "batch" / batch, values)
    except Exception as error:  # noqa: BLE001 - submitit raises several kinds; sbatch has said why
        click.echo(f"Error: {error}", err=True)
        ctx.exit(1)
    click.echo(f"batch {batch}: array {array} of {values['n_workers']} workers, then group job {after}")


def _of_group(parsed: click.Context) -> list[str]:
    """Which participants and sessions: options that both levels share."""
    options = []
    for name in ("participant_labels", "session_ids"):
        labels = parsed.params[name]
        option = next(param for param in atlasgs.params if param.name == name)
        options += [option.opts[0], *labels] if labels else []
    return options


def _submitted(
    worker: Sequence[str], group: Sequence[str], folder: Path, values: dict[str, Any]
) -> tuple[str, str]:
    """Job numbers of the array and of the group job that waits for all of it."""
    from submitit import SlurmExecutor  # noqa: PLC0415 - an extra

    named = {name: values[name] for name in ("partition", "account") if values[name]}
    more = {"requeue": True, **values["more"]}

    def executor(name: str, **parameters: Any) -> SlurmExecutor:
        made = SlurmExecutor(folder=folder, max_num_timeout=_MOST_TIMEOUTS)
        made.update_parameters(job_name=name, **named, **parameters)
        return made

    workers = executor(
        "atlasgs",
        cpus_per_task=values["n_cpus"],
        mem=f"{values['memory_gb'] * 1024:.0f}MB",
        time=values["minutes"],
        array_parallelism=values["n_workers"],
        additional_parameters=more,
        **({"gpus_per_node": values["n_gpus"]} if values["n_gpus"] else {}),
    )
    with workers.batch():
        jobs = [workers.submit(Invocation(tuple(worker))) for _ in range(values["n_workers"])]
    array = jobs[0].job_id.partition("_")[0]
    after = executor("atlasgs-group", dependency=f"afterany:{array}", additional_parameters=more, **_GROUP)
    return array, after.submit(Invocation(tuple(group))).job_id


if __name__ == "__main__":
    main(prog_name="atlasgs-submit")
