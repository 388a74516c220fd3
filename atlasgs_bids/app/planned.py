"""What a run has planned for each session, kept in ``logs/plan``: by it atlasgs-status knows what is missing.

Loads neither torch nor nibabel.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atlasgs_bids.bids.entities import session_label
from atlasgs_bids.bids.outputs.names import target_outputs
from atlasgs_bids.runtime.files import load_json, save_json

if TYPE_CHECKING:
    from atlasgs_bids.app.config import RunConfig
    from atlasgs_bids.app.failures import Failed
    from atlasgs_bids.bids.plan.session import SubjectPlan

logger = logging.getLogger("atlasgs_bids")

_FOLDER = Path("logs", "plan")
_NAME = re.compile(r"sub-(?P<participant>[^_]+)(_ses-(?P<session>[^_]+))?\.json")


@dataclass(frozen=True)
class Planned:
    """What the last run that looked at a session planned for it."""

    participant: str
    session: str | None
    targets: Mapping[str, str]
    """Label of each target (``FLAIR``) -> its metrics' path in the derivative dataset."""
    failures: Mapping[str, str]
    """Label (``sub-01 T2w``) -> why it could not be planned."""
    written_s: float
    """When the plan last changed, since the epoch."""

    @property
    def label(self) -> str:
        return session_label(self.participant, self.session)


def record_plans(
    participant: str, plans: Sequence["SubjectPlan"], failures: Sequence["Failed"], config: "RunConfig"
) -> None:
    """Keep the plans of one participant, where they differ from those that are kept.

    ``failures``: of planning. Sessions that are no longer there are forgotten, unless the run was asked for
    some sessions only; a participant without any is kept as one session with nothing to do.
    """
    sessions = {plan.session: plan for plan in plans} | {
        failure.session: None for failure in failures if failure.session not in {p.session for p in plans}
    }
    if not sessions and not config.session_ids:
        sessions = {None: None}
    folder, names = config.out_dir / _FOLDER / f"sub-{participant}", set()
    try:
        for session, plan in sessions.items():
            path = folder / f"{session_label(participant, session).replace(' ', '_')}.json"
            content = {
                "targets": {} if plan is None else _targets(plan, config),
                "failures": {each.label: each.message for each in failures if each.session == session},
            }
            names.add(path.name)
            if load_json(path) != content:
                save_json(content, path)
        if not config.session_ids:
            for path in folder.glob("sub-*.json"):
                if path.name not in names:
                    path.unlink(missing_ok=True)
    except OSError as error:  # what keeps a plan from being kept keeps its results too, and says so there
        logger.debug("sub-%s: its plan cannot be kept: %s", participant, error)


def _targets(plan: "SubjectPlan", config: "RunConfig") -> dict[str, str]:
    outputs = {
        target.label: target_outputs(
            config.out_dir, target.entities, config.restoration.resolution, plan.space
        )
        for target in plan.targets
    }
    return {label: of.metrics_tsv.relative_to(config.out_dir).as_posix() for label, of in outputs.items()}


def read_plans(out_dir: Path) -> list[Planned]:
    """What runs into ``out_dir`` have planned, session by session."""
    planned = []
    for path in sorted((out_dir / _FOLDER).glob("sub-*/sub-*.json")):
        match, content = _NAME.fullmatch(path.name), load_json(path)
        if match is not None and {"targets", "failures"} <= set(content):
            told = (content["targets"], content["failures"], path.stat().st_mtime)
            planned.append(Planned(match["participant"], match["session"], *told))
    return planned
