"""What the app itself doubts of a target."""

from atlasgs_bids.report.section import Section, ShownTarget, rendered

_TEMPLATE = """
{% if texts %}
<ul class="verdicts">
{% for text in texts %}
<li class="doubt"><strong>! Look</strong> {{ text }}</li>
{% endfor %}
</ul>
{% else %}
<p>None.</p>
{% endif %}
"""


def warnings(shown: ShownTarget) -> Section | None:
    if not shown.target.finished:
        return None
    return shown.section("warnings", "Warnings", rendered(_TEMPLATE, texts=shown.target.warnings))
