"""One participant: what there is, what will be done, and what cannot be."""

import logging
from collections.abc import Sequence

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.failures import Failed, failed
from atlasgs_bids.bids.entities import session_label
from atlasgs_bids.bids.inputs.discover import SubjectInputs, discover_participant
from atlasgs_bids.bids.inputs.ignore import BIDSIGNORE
from atlasgs_bids.bids.plan.session import SubjectPlan, plan_subject

logger = logging.getLogger("atlasgs_bids")


def plan_participant(participant: str, config: RunConfig) -> tuple[list[SubjectPlan], list[Failed]]:
    """The plans of a participant, session by session, and what could not be planned."""
    plans: list[SubjectPlan] = []
    failures: list[Failed] = []
    try:
        found = _discover(config, participant)
    except Exception as error:  # noqa: BLE001 - whatever breaks one participant breaks no other
        found = []
        failures.append(failed(participant, session_label(participant, None), error))
    for inputs in found:
        try:
            plan = plan_subject(inputs, config.plan, config.naming)
        except Exception as error:  # noqa: BLE001 - nor does it break another session
            label = session_label(participant, inputs.session)
            failures.append(failed(participant, label, error, inputs.session))
            continue
        plans.append(plan)
        failures += [
            Failed(participant, f"{plan.label} {label}", message, session=plan.session)
            for label, message in plan.failures
        ]
    return plans, failures


def without_plan(plans: Sequence[SubjectPlan], failures: Sequence[Failed]) -> list[Failed]:
    """Failures of sessions that have no plan."""
    planned = {f"{plan.label} {label}" for plan in plans for label, _ in plan.failures}
    return [failure for failure in failures if failure.label not in planned]


def _discover(config: RunConfig, participant: str) -> list[SubjectInputs]:
    """The sessions of a participant, as asked for; a warning where there are none."""
    found = discover_participant(
        config.bids_dir,
        participant,
        config.session_ids,
        config.bids_filters,
        config.derivatives,
        config.bids_database_dir,
        config.targets_from,
    )
    if not found:
        where = f" in session {', '.join(config.session_ids)}" if config.session_ids else ""
        logger.warning("sub-%s: no images%s, or none that %s leaves", participant, where, BIDSIGNORE)
    return found


def log_plan(plan: SubjectPlan) -> None:
    """Say what was picked, and why."""
    logger.info("%s: anchor %s (%s)", plan.label, plan.anchor.path.name, plan.anchor_reason)
    for path, reason in plan.skipped:
        logger.info("%s: skipping %s: %s", plan.label, path.name, reason)
    for text in plan.warnings:
        logger.warning("%s: %s", plan.label, text)
    if not plan.targets and not plan.failures:
        logger.warning("%s: nothing to restore: no thick slices", plan.label)
