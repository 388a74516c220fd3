"""What the result predicts for the acquired slices, and what it does not explain."""

from markupsafe import Markup

from atlasgs_bids.report.section import Section, ShownTarget, rendered
from atlasgs_bids.report.view_element import view_element
from atlasgs_bids.report.views import ACQUIRED, RESIDUAL, SIMULATED

_TEMPLATE = """
<p>Flicker between acquired and simulated slices: they should differ by noise alone. Anatomy in the
residual is what the
result does not explain.</p>
{% for element in elements %}
{{ element }}
{% endfor %}
"""


def slices(shown: ShownTarget) -> Section | None:
    if shown.views is None:
        return None
    elements: list[Markup] = [
        view_element(
            view,
            "view",
            [ACQUIRED, SIMULATED, RESIDUAL],
            f"A slice of {stack.name}: acquired, simulated, and their difference",
            f"{stack.name}. Residual: acquired minus simulated; mid-grey is no difference.",
        )
        for stack, view in zip(shown.target.stacks, shown.views.slices, strict=True)
    ]
    return shown.section("slices", "Slices", rendered(_TEMPLATE, elements=elements))
