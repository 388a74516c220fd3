"""What lies in the derivative dataset of one session, gathered for its page."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.contents_files import load_rows
from atlasgs_bids.app.failures import Failed
from atlasgs_bids.app.group_page import GROUP_PAGE
from atlasgs_bids.app.provenance import settings_of
from atlasgs_bids.app.scaffold import session_anchor
from atlasgs_bids.app.settings_file import settings_toml
from atlasgs_bids.app.target import TargetRun
from atlasgs_bids.bids.entities import session_label
from atlasgs_bids.bids.outputs.names import TargetOutputs, anchor_outputs, longitudinal_metrics, session_page
from atlasgs_bids.bids.plan.files import stack_outputs
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.bids.plan.table import plan_rows
from atlasgs_bids.errors import InputError
from atlasgs_bids.report.columns import metrics_dictionary
from atlasgs_bids.report.contents import Failure, PageContents, PlanRow, StackFiles, TargetContents
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.runtime.files import load_json, load_text, short_name
from atlasgs_bids.version import __version__


def session_contents(plan: SubjectPlan, config: RunConfig, failures: Sequence[Failed] = ()) -> PageContents:
    """Everything that the page of a planned session says.

    ``failures`` are those of this run; of earlier ones the crash files are read.
    """
    runs = [TargetRun(plan, target, config) for target in plan.targets]
    targets = tuple(_target(run) for run in runs)
    shared = anchor_outputs(config.out_dir, plan.participant, plan.session, plan.space)
    made_with = [
        (run.target.entities["suffix"], _settings(target, run))
        for run, target in zip(runs, targets, strict=True)
    ]
    other = load_rows(longitudinal_metrics(config.out_dir, plan.participant, plan.session, plan.space))
    return PageContents(
        **_frame(plan.participant, plan.session, config),
        settings_toml=settings_toml(made_with),
        plan=tuple(PlanRow(*row) for row in plan_rows(plan)),
        warnings=plan.warnings,
        anchor=_anchor(plan) if shared.anchor.exists() else None,
        anchor_sidecar=load_json(shared.anchor_json),
        scaffold=shared.scaffold_npz if shared.scaffold_npz.exists() else None,
        scaffold_sidecar=load_json(shared.scaffold_json),
        longitudinal=other[0] if other else {},
        targets=targets,
        failures=tuple(_failures(plan, targets, config, failures)),
        metrics_dictionary=metrics_dictionary(),
        with_viewer=config.viewer,
    )


def unplanned_contents(failure: Failed, config: RunConfig) -> PageContents:
    """The page of a session without a plan: why there is none."""
    text = _crash_text(failure.label, config) or failure.traceback
    return PageContents(
        **_frame(failure.participant, failure.session, config),
        settings_toml="# nothing was restored\n",
        failures=(Failure(failure.label, failure.message, text),),
    )


def _frame(participant: str, session: str | None, config: RunConfig) -> dict[str, Any]:
    return {
        "label": session_label(participant, session),
        "stem": session_page(config.out_dir, participant, session).stem,
        "version": __version__,
        "written": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "command": shlex.join(["atlasgs", *sys.argv[1:]]),
        "group_page": GROUP_PAGE if (config.out_dir / GROUP_PAGE).exists() else None,
    }


def _target(run: TargetRun) -> TargetContents:
    target, outputs, naming = run.target, run.outputs, run.naming
    stacks = []
    for planned in target.stacks:
        own = stack_outputs(planned, target, naming)
        figures = {kind: own.figure_of(kind) for kind in ("calibration", "distortion", "motion", "confounds")}
        stacks.append(
            StackFiles(
                name=planned.source.path.name,
                acquired=planned.source.path,
                simulated=own.simulated,
                residual=own.residual,
                transform=own.xfm,
                slice_axis=planned.geometry.axis,
                thickness_mm=planned.geometry.thickness_mm,
                figures={kind: path for kind, path in figures.items() if path.exists()},
            )
        )
    rows = load_rows(outputs.metrics_tsv)
    return TargetContents(
        label=target.label,
        finished=outputs.finished,
        stacks=tuple(stacks),
        result=outputs.sr,
        sd=outputs.srstd,
        trusted=outputs.trusted_mask,
        flags=outputs.flags,
        fov=outputs.fov_mask,
        figure=outputs.figure,
        thumbnail=outputs.thumbnail,
        sidecar=load_json(outputs.sr_json),
        metrics=rows[0] if rows else {},
        group=_group_values(run.config.out_dir / f"group_{target.entities['suffix']}.tsv"),
        volume_figures=_volume_figures(run, outputs),
        is_series=target.series is not None,
    )


def _volume_figures(run: TargetRun, outputs: TargetOutputs) -> dict[str, Path]:
    series = run.target.series
    kinds = [] if series is None else [*dict.fromkeys(series.kinds), "difference"]
    figures = {kind: outputs.figure_of(kind) for kind in kinds}
    return {kind: path for kind, path in figures.items() if path.exists()}


def _settings(target: TargetContents, run: TargetRun) -> Mapping[str, Any]:
    """What a finished target was made with; what another one would be made with."""
    stored = target.sidecar.get("Settings")
    return stored if isinstance(stored, dict) else settings_of(run.target, run.config)


def _anchor(plan: SubjectPlan) -> Anchor | None:
    try:
        return session_anchor(plan)
    except (InputError, OSError):  # it failed, and the errors say why
        return None


def _group_values(table: Path) -> dict[str, list[float]]:
    """The numbers of each column of a group's table."""
    values: dict[str, list[float]] = {}
    for row in load_rows(table):
        for name, text in row.items():
            try:
                values.setdefault(name, []).append(float(text))
            except ValueError:
                continue
    return values


def _failures(
    plan: SubjectPlan, targets: Sequence[TargetContents], config: RunConfig, failures: Sequence[Failed]
) -> list[Failure]:
    """What failed now; of what is still unfinished, what failed in an earlier run; what the plan refuses."""
    found = {failed.label: failed.message for failed in failures}
    found |= {f"{plan.label} {label}": message for label, message in plan.failures}
    for target in targets:
        label = f"{plan.label} {target.label}"
        if not target.finished and label not in found and plan.label not in found:
            for known in (label, plan.label):
                text = _crash_text(known, config)
                if text:
                    found.setdefault(known, text.split("\n")[1])
                    break
    traces = {failed.label: failed.traceback for failed in failures}
    return [
        Failure(label, message, _crash_text(label, config) or traces.get(label, ""))
        for label, message in found.items()
    ]


def _crash_text(label: str, config: RunConfig) -> str:
    """The newest crash file of a label; the name begins with the time."""
    pattern = f"crash-*-{short_name(label)}-*.txt"
    for path in sorted((config.out_dir / "logs").glob(pattern), reverse=True):
        try:
            text = load_text(path)
        except OSError:
            continue
        if text.startswith(f"{label}\n"):
            return text
    return ""
