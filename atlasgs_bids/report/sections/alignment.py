"""Whether the target lies where the anchor says: its slices and the anchor in them, before and after."""

from markupsafe import Markup

from atlasgs_bids.report.section import Section, ShownTarget, rendered
from atlasgs_bids.report.view_element import view_element
from atlasgs_bids.report.views import ACQUIRED, AFTER, BEFORE, EDGES

_TEMPLATE = """
<p>Flicker between the acquired slices and the {{ anchor }} as slices of that thickness would show it. Borders
should stay where
they are; with the headers' position they may jump.</p>
{% for element in elements %}
{{ element }}
{% endfor %}
<dl class="facts">
<dt>Found by</dt><dd>{{ metrics.get("registration_method", "n/a") }}</dd>
<dt>Moved</dt><dd>{{ metrics.get("registration_rotation", "n/a") }} degrees,
{{ metrics.get("registration_displacement", "n/a") }} mm on average</dd>
<dt>Standard error</dt><dd>{{ metrics.get("registration_error", "n/a") }} mm</dd>
</dl>
"""


def alignment(shown: ShownTarget) -> Section | None:
    if shown.views is None:
        return None
    elements: list[Markup] = []
    name = shown.anchor_name
    for stack, view in zip(shown.target.stacks, shown.views.alignment, strict=True):
        elements.append(
            view_element(
                view,
                "view",
                [ACQUIRED, AFTER.format(name), BEFORE.format(name)],
                f"A slice of {stack.name}, and the {name} there in the position found and in the headers'; "
                f"edges of the {name} in orange",
                f"{stack.name}. In orange the edges of the {name} in the position found.",
                overlays=[EDGES.format(name)],
            )
        )
    body = rendered(_TEMPLATE, elements=elements, anchor=name, metrics=shown.target.metrics)
    return shown.section("alignment", "Alignment", body)
