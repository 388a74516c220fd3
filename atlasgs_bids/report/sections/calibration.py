"""What the slices say of their own position and profile, and how the head moved between them."""

from atlasgs_bids.report.pictures import file_uri
from atlasgs_bids.report.section import Section, ShownTarget, rendered

_TEXTS = {
    "calibration": "How the model's misfit rises along shifts and turns, where registration and evidence "
    "put the "
    "slices, and the slice profile found beside the stated one",
    "distortion": "The slices as acquired and as corrected, with the edges of the anchor, and how far points "
    "of the head are displaced",
    "motion": "Movement and intensity of every slice",
    "confounds": "Movement of every volume from the reference, its change from volume to volume, and the "
    "slices that lost their signal",
}

_TEMPLATE = """
{% for figure in figures %}
<figure class="plot"><img src="{{ figure.uri }}" alt="{{ figure.text }} of {{ figure.name }}">
<figcaption>{{ figure.name }}: {{ figure.text }}.</figcaption></figure>
{% endfor %}
"""


def calibration(shown: ShownTarget) -> Section | None:
    figures = [
        {"uri": file_uri(path), "text": _TEXTS[kind], "name": stack.name}
        for stack in shown.target.stacks
        for kind, path in stack.figures.items()
    ]
    if not figures:
        return None
    return shown.section("calibration", "Calibration", rendered(_TEMPLATE, figures=figures))
