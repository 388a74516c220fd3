"""The restored image beside what interpolation makes of the same slices."""

from atlasgs_bids.report.pictures import file_uri
from atlasgs_bids.report.section import Section, ShownTarget, rendered
from atlasgs_bids.report.view_element import view_element
from atlasgs_bids.report.views import INTERPOLATED, RESTORED

_TEMPLATE = """
{% if element %}
<p>Flicker, or drag the border between the two. What the restored image shows should be hinted at by the
interpolated one,
or by the {{ anchor }} as a border; what is in neither needs a reason.</p>
{{ element }}
{% else %}
{% if problem %}<p class="note">The images cannot be shown here: {{ problem }}</p>{% endif %}
{% if figure %}
<figure class="plot"><img src="{{ figure }}" alt="{{ anchor }}, interpolated and restored in three planes">
<figcaption>{{ anchor }}, acquired image interpolated, result.</figcaption></figure>
{% endif %}
{% endif %}
"""


def result(shown: ShownTarget) -> Section | None:
    target = shown.target
    if not target.finished:
        return None
    element, name = None, shown.anchor_name
    if shown.views is not None:
        element = view_element(
            shown.views.result,
            "view",
            [RESTORED, INTERPOLATED, name],
            f"{target.label} restored, interpolated, and the {name}, each in an axial, a coronal and a "
            "sagittal plane",
            "Restored image and interpolation (cubic B-splines) through one point, in one grey window.",
        )
    figure = file_uri(target.figure) if target.figure.exists() and element is None else None
    body = rendered(_TEMPLATE, element=element, problem=shown.problem, figure=figure, anchor=name)
    return shown.section("result", "Result", body)
