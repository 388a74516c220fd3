"""The methods text to copy."""

from atlasgs_bids.report.contents import PageContents
from atlasgs_bids.report.methods import Described, methods_of
from atlasgs_bids.report.section import Section, rendered

_TEMPLATE = """
<p>What was done to these images, to copy: free of any conditions (CC0). For a whole dataset,
<code>logs/CITATION.md</code>, also
as .html, .tex and .bib.</p>
<pre tabindex="0" class="prose" id="methods-text">{{ text }}</pre>
<button type="button" class="script" data-copy="methods-text">Copy</button>
"""


def methods(page: PageContents) -> Section | None:
    done = [
        Described(target.label.rpartition("_")[2], target.sidecar, target.metrics)
        for target in page.targets
        if target.finished
    ]
    if not done:
        return None
    return Section("methods", "Methods", rendered(_TEMPLATE, text=methods_of(done, page.version).plain()))
