"""One study: plan, compute what is not there yet, make the tables; one failure stops nobody else."""

import functools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from atlasgs_bids.errors import ConfigurationError, listed
from atlasgs_bids.runtime.files import remove_stale_temporaries, save_json
from atlasgs_bids.runtime.pool import in_processes
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.results.cells import CellKey, Cells
from atlasgs_bids.study.results.summary import write_results
from atlasgs_bids.study.session import SessionPlan, SessionRunner, note_failure, plan_sessions
from atlasgs_bids.study.settings import StudyConfig

logger = logging.getLogger(__name__)

_KILLED = "its process was ended from outside, for want of memory perhaps; use a smaller --nprocs"


@dataclass(frozen=True)
class Outcome:
    """What became of the cells that were asked for."""

    n_done: int
    """Those that an earlier run had finished among them."""
    n_not_run: int
    failures: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The last line of a run."""
        line = f"{self.n_done} cells done, {self.n_not_run} not run, {len(self.failures)} failed"
        return line + (f": {listed(self.failures, '; ')}" if self.failures else "")


def run_study(study: StudyConfig, participants: Sequence[str], progress: Progress) -> Outcome:
    """Compute the cells that are missing, then write tables and figures of all that are there."""
    cells = Cells(study.out_dir)
    for folder in (study.out_dir, cells.folder, study.out_dir / "shared"):
        remove_stale_temporaries(folder)
    if study.output == "tables":
        found = list(cells)
        write_results(study.out_dir)
        n_done = sum(cell.done for cell in found)
        n_not_run = sum(cell.content["status"] == "not run" for cell in found)
        failures = [cell.key.stem for cell in found if cell.content["status"] == "failed"]
        return Outcome(n_done, n_not_run, tuple(failures))
    _check_folder(study)
    sessions: list[SessionPlan] = []
    failures = []
    for participant in participants:
        try:
            of_one = plan_sessions(participant, study)
        except Exception as error:  # noqa: BLE001 - whatever breaks one participant breaks no other
            failures.append(f"sub-{participant}: {note_failure(study, f'sub-{participant}', error)}")
            continue
        if not of_one:
            logger.warning("sub-%s: no isotropic target, nothing to study", participant)
        sessions += of_one
    statuses: dict[CellKey, str] = {}
    jobs: list[tuple[SessionPlan, CellKey]] = []
    for session in sessions:
        for key in session.keys(study):
            if study.overwrite:
                cells.remove(key)
            cell = cells.load(key)
            if cell is not None and cell.done:
                statuses[key] = "done"
            else:
                jobs.append((session, key))
    logger.info("%d cells, %d of them to compute", len(jobs) + len(statuses), len(jobs))
    computed = _in_processes if study.n_procs > 1 and len(jobs) > 1 else _one_by_one
    statuses |= computed(jobs, study, progress)
    if study.output == "all":
        write_results(study.out_dir)
    failures += [key.stem for key, status in statuses.items() if status == "failed"]
    values = list(statuses.values())
    return Outcome(values.count("done"), values.count("not run"), tuple(failures))


def _one_by_one(
    jobs: Sequence[tuple[SessionPlan, CellKey]], study: StudyConfig, progress: Progress
) -> dict[CellKey, str]:
    statuses: dict[CellKey, str] = {}
    sessions = list(dict.fromkeys(id(session) for session, _ in jobs))
    for identity in sessions:
        own = [(session, key) for session, key in jobs if id(session) == identity]
        statuses |= dict(SessionRunner(own[0][0], study, progress).compute(key for _, key in own))
    return statuses


def _in_processes(
    jobs: Sequence[tuple[SessionPlan, CellKey]], study: StudyConfig, progress: Progress
) -> dict[CellKey, str]:
    """Cells handed to processes; each loads what a session shares when it first meets it."""
    statuses: dict[CellKey, str] = {}
    compute = functools.partial(_compute_one, study=replace(study, n_procs=1))
    keys = [key for _, key in jobs]
    with progress.stage("cells", len(keys)) as advance:
        for key, status in in_processes(keys, compute, study.n_procs, study.n_threads or 1):
            if status is None:
                Cells(study.out_dir).save(key, {"status": "failed", "reason": _KILLED})
                logger.error("%s: %s", key.stem, _KILLED)
            statuses[key] = status or "failed"
            advance(1)
    return statuses


def _compute_one(key: CellKey, study: StudyConfig) -> str:
    ((_, status),) = _runner(key, study).compute([key])
    return status


_RUNNERS: dict[tuple[str, str | None], SessionRunner] = {}
"""Of this process: the session that it met last."""


def _runner(key: CellKey, study: StudyConfig) -> SessionRunner:
    place = (key.participant, key.session)
    if place not in _RUNNERS:
        _RUNNERS.clear()
        (own,) = [s for s in plan_sessions(key.participant, study) if s.plan.session == key.session]
        _RUNNERS[place] = SessionRunner(own, study, Progress.quiet())
    return _RUNNERS[place]


def _check_folder(study: StudyConfig) -> None:
    """Raise ConfigurationError where the folder holds cells of another simulation, or cannot be written."""
    path = study.out_dir / "study.json"
    try:
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before != study.simulation:
                differing = [name for name, value in study.simulation.items() if before.get(name) != value]
                raise ConfigurationError(
                    f"out_dir {study.out_dir} holds a study with another "
                    f"{', '.join(differing) or 'setting'}; choose another folder for these cells"
                )
        else:
            save_json(study.simulation, path)
    except OSError as error:
        raise ConfigurationError(
            f"out_dir {study.out_dir} cannot be written to ({error.strerror}); choose a folder that can"
        ) from error
