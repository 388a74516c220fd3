"""The volumes of a series: the mean of each shell, or of control, label and their difference."""

from atlasgs_bids.report.pictures import file_uri
from atlasgs_bids.report.section import Section, ShownTarget, rendered

_TEMPLATE = """
{% for kind, uri in figures.items() %}
<figure class="plot"><img src="{{ uri }}" alt="{{ anchor }}, mean of the acquired {{ kind }} volumes
interpolated, mean of the restored ones{{ ", standard deviation of one" if kind in known }}">
<figcaption>{{ kind }}: {{ anchor }}, mean of the acquired volumes interpolated, mean of the restored
ones{{ ", standard deviation of the error of one of them" if kind in known }}.</figcaption></figure>
{% endfor %}
"""


def series(shown: ShownTarget) -> Section | None:
    if not shown.target.is_series:
        return None
    figures = {kind: file_uri(path) for kind, path in shown.target.volume_figures.items()}
    if not figures:
        return None
    known = [kind for kind in figures if kind != "difference"] if shown.target.sd.exists() else []
    body = rendered(_TEMPLATE, figures=figures, anchor=shown.anchor_name, known=known)
    return shown.section("volumes", "Volumes", body)
