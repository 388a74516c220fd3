"""One session of a participant: load, scaffold, then for each target register, fit, render, write."""

import logging
import resource
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.failures import Failure, SubjectResult
from atlasgs_bids.app.longitudinal import check_other_session
from atlasgs_bids.app.outputs import write_target
from atlasgs_bids.app.series import SeriesRun, restore_series
from atlasgs_bids.bids.outputs.names import TargetOutputs, target_outputs
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.bids.plan.targets import TargetPlan
from atlasgs_bids.core.memory import with_smaller_chunks
from atlasgs_bids.core.settings import CoreSettings
from atlasgs_bids.errors import error_text
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.report.metrics import warnings_of
from atlasgs_bids.restoration.anchor import Anchor, session_anchor
from atlasgs_bids.restoration.motion import fit_moving_stacks
from atlasgs_bids.restoration.observation import observe_placed
from atlasgs_bids.restoration.result import rendered_result
from atlasgs_bids.restoration.scaffold import SessionScaffold, session_scaffold
from atlasgs_bids.restoration.stack import PlacedStack, place
from atlasgs_bids.restoration.target import FittedTarget, fit_target
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)

Registrations = Mapping[str, Callable[[], tuple[list[PlacedStack], float]]]
"""By label of the target."""
_MOST_AHEAD = 2
"""Registrations at once; each holds a few copies of the anchor."""


@dataclass
class _Clock:
    """Seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start


def process_subject(plan: SubjectPlan, config: RunConfig, progress: Progress) -> SubjectResult:
    """Every target of one session; a target that fails stops no other. An unusable anchor raises."""
    pending, skipped = [], []
    for target in plan.targets:
        outputs = target_outputs(config.out_dir, target.entities, config.resolution)
        if outputs.finished and not config.overwrite:
            skipped.append(target.label)
        else:
            outputs.metrics_tsv.unlink(missing_ok=True)
            pending.append((target, outputs))
    if not pending:
        return SubjectResult((), tuple(skipped), ())
    anchor = session_anchor(plan)
    finished, failures = [], []
    with _registrations(plan, [target for target, _ in pending], anchor, config) as placed:
        scaffold = session_scaffold(plan, anchor, config, progress)
        with progress.stage(f"{plan.label}: other sessions") as advance:
            check_other_session(plan, scaffold, config)
            advance(1)
        for target, outputs in pending:
            try:
                with_smaller_chunks(
                    partial(_process_target, plan, target, outputs, scaffold, placed, config, progress),
                    config.core,
                    config.device,
                    len(scaffold.gaussians),
                )
                finished.append(target.label)
            except Exception as error:  # noqa: BLE001 - whatever breaks one target breaks no other
                failures.append(Failure(target.label, error_text(error), traceback.format_exc()))
                if config.stop_on_first_crash:
                    break
    return SubjectResult(tuple(finished), tuple(skipped), tuple(failures))


@contextmanager
def _registrations(
    plan: SubjectPlan, targets: Sequence[TargetPlan], anchor: Anchor, config: RunConfig
) -> Iterator[Registrations]:
    """The stacks of each 3-D target in their positions, and the seconds that this took, once asked for.

    Registration runs on one thread and knows the anchor alone: where there are threads to spare it goes ahead
    beside the scaffold and the targets before.
    """
    tasks = {
        target.label: partial(_placed, target, anchor, config, f"{plan.label} {target.label}")
        for target in targets
        if target.series is None
    }
    n_threads = min(config.n_threads or 1, _MOST_AHEAD)
    if n_threads == 1:
        yield tasks
        return
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="registration")
    try:
        yield {label: pool.submit(task).result for label, task in tasks.items()}
    finally:
        pool.shutdown(cancel_futures=True)


def _placed(
    target: TargetPlan, anchor: Anchor, config: RunConfig, label: str
) -> tuple[list[PlacedStack], float]:
    start = time.perf_counter()
    placed = [place(stack, load_volume(stack.source.path), anchor, config, label) for stack in target.stacks]
    return placed, time.perf_counter() - start


def _process_target(
    plan: SubjectPlan,
    target: TargetPlan,
    outputs: TargetOutputs,
    scaffold: SessionScaffold,
    registrations: Registrations,
    config: RunConfig,
    progress: Progress,
    core: CoreSettings,
) -> None:
    config = replace(config, core=core)
    label = f"{plan.label} {target.label}"
    clock = _Clock({"scaffold": scaffold.seconds})
    if target.series is not None:
        run = SeriesRun(plan, target, target.series, outputs, scaffold, config, progress)
        result = restore_series(run, clock.measure)
    else:
        with progress.stage(f"{label}: registration") as advance:
            placed, clock.seconds["registration"] = registrations[target.label]()
            advance(1)
        with clock.measure("appearance"):
            if config.motion == "slice":
                fitted = _fit_moving(placed, scaffold, config, progress, label)
            else:
                fitted = fit_target(placed, scaffold, config, progress, label)
        with clock.measure("render"), progress.stage(f"{label}: rendering") as advance:
            result = rendered_result(fitted.fit, fitted.scaffold, config)
            advance(1)
    for text in warnings_of(result):
        logger.warning("%s: %s", label, text)
    with progress.stage(f"{label}: writing") as advance:
        write_target(plan, target, outputs, result, config, clock.seconds, _memory(config))
        advance(1)


def _fit_moving(
    placed: Sequence[PlacedStack],
    scaffold: SessionScaffold,
    config: RunConfig,
    progress: Progress,
    label: str,
) -> FittedTarget:
    observations = tuple(observe_placed(stack, scaffold, config) for stack in placed)
    fit = fit_moving_stacks(placed, observations, scaffold, config, progress, label)
    return FittedTarget(scaffold, observations, fit)


def _memory(config: RunConfig) -> dict[str, float | None]:
    """Peak memory of this process, MiB."""
    gpu = torch.cuda.max_memory_allocated(config.device) / 2**20 if config.device != "cpu" else None
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_memory": peak_kib / 1024, "peak_gpu_memory": gpu}
