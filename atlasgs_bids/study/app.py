"""One invocation of the study: checks, the run, the exit code."""

from dataclasses import replace
from functools import partial

from atlasgs_bids.bids.inputs.selection import selected_participants
from atlasgs_bids.bids.outputs.dataset import check_paths
from atlasgs_bids.runtime.devices import devices, resolved_device
from atlasgs_bids.runtime.environment import limit_threads, place_caches, share_of_threads
from atlasgs_bids.runtime.processes import EXIT_DONE, EXIT_FAILED, Ended, exit_code_of
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.run import run_study
from atlasgs_bids.study.settings import StudyConfig


def run(study: StudyConfig) -> int:
    """Exit code: 0 all done, 1 something failed, 2 usage, 130 interrupted."""
    return exit_code_of(partial(_run, study), study.verbosity, "finished cells stay")


def _run(study: StudyConfig, progress: Progress) -> Ended:
    check_paths(study.bids_dir, study.out_dir, {})
    participants = selected_participants(study.bids_dir, study.participant_labels, study.session_ids)
    place_caches(None)
    n_threads = study.n_threads or share_of_threads(study.n_procs)
    limit_threads(n_threads)
    device = "cpu" if study.output == "tables" else devices(resolved_device(study.device))[0]
    outcome = run_study(replace(study, device=device, n_threads=n_threads), participants, progress)
    return Ended(EXIT_FAILED if outcome.failures else EXIT_DONE, outcome.summary)
