"""Every measure of a target with a sentence of its own, and where it lies among the others."""

from collections.abc import Mapping, Sequence
from typing import Any

from atlasgs_bids.report.section import Section, ShownTarget, rendered

_TEMPLATE = """
<p>They need no truth and are no proof of accuracy.</p>
<div class="wide" tabindex="0" role="region" aria-label="Metrics of {{ label }}"><table class="stacked">
<thead><tr><th scope="col">metric</th><th scope="col">value</th>{% if with_group %}<th scope="col">in the
group</th>{% endif %}
<th scope="col">what it is</th></tr></thead>
<tbody>
{% for row in rows %}
<tr><th scope="row">{{ row.name }}</th><td class="number">{{ row.value }}{% if row.unit %} {{ row.unit }}{%
endif %}</td>
{% if with_group %}<td class="number">{{ row.place }}</td>{% endif %}<td>{{ row.text }}</td></tr>
{% endfor %}
</tbody></table></div>
{% if missing %}
<p>Not measured here: {{ missing | join(", ") }}.</p>
{% endif %}
"""
_FEWEST = 5
"""Images in a group among which a place means something."""


def metrics(shown: ShownTarget) -> Section | None:
    target, dictionary = shown.target, shown.page.metrics_dictionary
    if not target.metrics:
        return None
    measured = {name: value for name, value in target.metrics.items() if value != "n/a"}
    missing = [name for name in target.metrics if name not in measured]
    rows = [_row(name, value, dictionary, target.group) for name, value in measured.items()]
    with_group = any(row["place"] for row in rows)
    body = rendered(_TEMPLATE, rows=rows, with_group=with_group, label=target.label, missing=missing)
    return shown.section("metrics", "Metrics", body)


def _row(
    name: str,
    value: str,
    dictionary: Mapping[str, Mapping[str, Any]],
    group: Mapping[str, Sequence[float]],
) -> dict[str, str]:
    meaning = dictionary.get(name, {})
    unit = str(meaning.get("Units", "")) if value != "n/a" else ""
    return {
        "name": name,
        "value": value,
        "unit": "" if unit == "arbitrary" else unit,
        "text": str(meaning.get("Description", "")),
        "place": _place(value, group.get(name, ())),
    }


def _place(value: str, others: Sequence[float]) -> str:
    """How many of the group have a lower value."""
    try:
        own = float(value)
    except ValueError:
        return ""
    if len(others) < _FEWEST or min(others) == max(others):
        return ""
    return f"{sum(other < own for other in others)} of {len(others)} lower"
