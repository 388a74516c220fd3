"""``logs/CITATION.*``: what was done to the images of a dataset, as a text to copy."""

import logging
from collections.abc import Sequence

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.contents_files import load_rows
from atlasgs_bids.app.target import TargetRun
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.report.methods import Described, methods_of
from atlasgs_bids.runtime.files import load_json, load_text, save_text
from atlasgs_bids.version import __version__

logger = logging.getLogger(__name__)


def write_citation(plans: Sequence[SubjectPlan], config: RunConfig) -> None:
    """Of every finished image of these sessions, in Markdown, HTML, LaTeX and BibTeX; none without any."""
    runs = [TargetRun(plan, target, config) for plan in plans for target in plan.targets]
    results = [
        Described(run.target.entities["suffix"], load_json(run.outputs.sr_json), rows[0])
        for run in runs
        if (rows := load_rows(run.outputs.metrics_tsv))
    ]
    save_citation(results, config)


def save_citation(results: Sequence[Described], config: RunConfig) -> None:
    """The text for these results; none without any."""
    if not results:
        return
    methods = methods_of(results, __version__)
    texts = {"md": methods.markdown(), "html": methods.html(), "tex": methods.tex(), "bib": methods.bibtex()}
    for ending, text in texts.items():
        path = config.out_dir / "logs" / f"CITATION.{ending}"
        try:
            if not path.exists() or load_text(path) != text:
                save_text(text, path)
        except OSError as error:  # the results are there
            logger.warning("%s cannot be written: %s", path, error)
