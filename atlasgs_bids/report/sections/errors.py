"""What failed, with the text of its crash file."""

from atlasgs_bids.report.contents import PageContents
from atlasgs_bids.report.section import Section, rendered

_TEMPLATE = """
{% for failure in failures %}
<article class="failure"><h3>{{ failure.label }}</h3>
<p><strong>✕ Failed</strong> {{ failure.message }}</p>
{% if failure.crash_text %}
<details><summary>Crash file: what to send with a question</summary>
<pre tabindex="0">{{ failure.crash_text }}</pre></details>
{% endif %}
</article>
{% endfor %}
"""


def errors(page: PageContents) -> Section | None:
    if not page.failures:
        return None
    return Section("errors", "Errors", rendered(_TEMPLATE, failures=page.failures))
