"""The plan of a run as a table for the terminal."""

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.bids.plan.targets import TargetPlan


def plan_table(plans: Iterable[SubjectPlan], failures: Iterable[tuple[str, str]] = ()) -> Table:
    """One row for each image: what it is for, or why it is not used; ``failures``: who has no plan."""
    table = Table("participant", "image", "role", "details", title="Plan", title_justify="left")
    for plan in plans:
        for role, name, details in plan_rows(plan):
            table.add_row(plan.label, escape(name), role, escape(details))
        table.add_section()
    for label, message in failures:
        table.add_row(label, "", "FAIL", escape(message))
    return table


def plan_rows(plan: SubjectPlan) -> list[tuple[str, str, str]]:
    """Role, name and details of each image of a session, and what is said of the session itself."""
    rows = [("anchor", plan.anchor.path.name, plan.anchor_reason)]
    if plan.other_anchor is not None:
        name = plan.other_anchor.path.name
        rows.append(("compare", name, f"another session's {plan.space}: does the scaffold explain it?"))
    if plan.brain_mask is not None:
        rows.append(("brain mask", plan.brain_mask.path.name, plan.brain_mask.path.as_posix()))
    if plan.magnitude is not None:
        rows.append(
            ("head of UNIT1", plan.magnitude.path.name, "its air is silent, that of the UNIT1 is noise")
        )
    rows += [
        ("restore", ", ".join(stack.source.path.name for stack in target.stacks), _target_details(target))
        for target in plan.targets
    ]
    rows += [("skip", path.name, reason) for path, reason in plan.skipped]
    rows += [("FAIL", label, message) for label, message in plan.failures]
    rows += [("warning", "", text) for text in plan.warnings]
    if not plan.targets and not plan.failures:
        rows.append(("nothing", "", "no thick slices to restore"))
    return rows


def _target_details(target: TargetPlan) -> str:
    details = []
    for stack in target.stacks:
        geometry = stack.geometry
        in_plane = " x ".join(f"{side:.3g}" for side in geometry.in_plane_mm)
        details.append(
            f"slices every {geometry.spacing_mm:.3g} mm, {geometry.thickness_mm:.3g} mm thick "
            f"({geometry.thickness_source}), in plane {in_plane} mm"
        )
        if stack.transforms:
            details.append("position by " + ", ".join(step.path.name for step in stack.transforms))
    if target.series is not None:
        counts = {kind: len(target.series.volumes_of(kind)) for kind in target.series.kinds}
        details.append("volumes: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))
    return "; ".join(details)
