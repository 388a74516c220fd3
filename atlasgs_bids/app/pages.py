"""The page of a session: written after its results, after its failure, and again by ``--reports-only``."""

import logging
from collections.abc import Sequence

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.contents import session_contents, unplanned_contents
from atlasgs_bids.app.failures import Failed
from atlasgs_bids.bids.outputs.names import session_page
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.report.page import drawn_page
from atlasgs_bids.runtime.files import save_bytes, save_text
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)


def write_page(plan: SubjectPlan, config: RunConfig, failures: Sequence[Failed], progress: Progress) -> None:
    """What lies in the derivative dataset of a session, as a page beside its folder."""
    with progress.under(plan.label).stage("page") as advance:
        drawn = drawn_page(session_contents(plan, config, failures))
        for path, content in drawn.thumbnails.items():
            save_bytes(content, path)
        save_text(drawn.html, session_page(config.out_dir, plan.participant, plan.session))
        advance(1)


def write_unplanned_page(failure: Failed, config: RunConfig) -> None:
    """The page of a session that could not even be planned: why."""
    page = session_page(config.out_dir, failure.participant, failure.session)
    save_text(drawn_page(unplanned_contents(failure, config)).html, page)
