"""One invocation of the study: checks, the run, the exit code."""

import logging
from dataclasses import replace

from atlasgs_bids.bids.inputs.selection import selected_participants
from atlasgs_bids.bids.outputs.dataset import check_paths
from atlasgs_bids.errors import ConfigurationError
from atlasgs_bids.runtime.devices import devices, resolved_device
from atlasgs_bids.runtime.environment import limit_threads, place_caches, share_of_threads
from atlasgs_bids.runtime.processes import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    signals_as_interrupt,
)
from atlasgs_bids.runtime.progress import logging_to_terminal
from atlasgs_bids.study.run import run_study
from atlasgs_bids.study.settings import StudyConfig

logger = logging.getLogger("atlasgs_bids")


def run(study: StudyConfig) -> int:
    """Exit code: 0 all done, 1 something failed, 2 usage, 130 interrupted."""
    with signals_as_interrupt(), logging_to_terminal(study.verbosity) as progress:
        try:
            check_paths(study.bids_dir, study.out_dir, {})
            participants = selected_participants(study.bids_dir, study.participant_labels, study.session_ids)
            place_caches(None)
            n_threads = study.n_threads or share_of_threads(study.n_procs)
            limit_threads(n_threads)
            device = "cpu" if study.output == "tables" else devices(resolved_device(study.device))[0]
            outcome = run_study(replace(study, device=device, n_threads=n_threads), participants, progress)
        except ConfigurationError as error:
            logger.error("%s", error)  # noqa: TRY400 - the message is for the user, who needs no traceback
            return EXIT_USAGE
        except KeyboardInterrupt:
            logger.error("interrupted; finished cells stay, the next run goes on from there")  # noqa: TRY400
            return EXIT_INTERRUPTED
    print(outcome.summary)
    return EXIT_FAILED if outcome.failures else EXIT_DONE
