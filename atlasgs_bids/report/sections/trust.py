"""How sure the result is, and where it may not be trusted."""

from atlasgs_bids.report.section import Section, ShownTarget, rendered
from atlasgs_bids.report.view_element import view_element
from atlasgs_bids.report.views import FLAGGED, RESTORED, SD, TRUSTED

_TEMPLATE = """
<p>{{ text }}</p>
{{ element }}
<dl class="facts">
<dt>Median standard deviation</dt><dd>{{ metrics.get("sd_median", "n/a") }}</dd>
<dt>Trusted</dt><dd>{{ part }} of the head or brain; of such voxels of held-out slices {{ risk }} err by
more, of all of them {{ everywhere }}</dd>
<dt>Slices contradict</dt><dd>{{ metrics.get("contradicted_regions", "n/a") }} places,
{{ metrics.get("contradicted_volume", "n/a") }} mm³</dd>
<dt>Slices lie elsewhere</dt><dd>{{ metrics.get("misaligned_regions", "n/a") }} places,
{{ metrics.get("misaligned_volume", "n/a") }} mm³</dd>
<dt>Slices and prior disagree</dt><dd>in {{ disagree }} of the slices'
voxels</dd>
</dl>
"""


def trust(shown: ShownTarget) -> Section | None:
    if shown.views is None:
        return None
    view = shown.views.result
    there = {layer.name for layer in view.layers}
    overlays = [name for name in (SD, TRUSTED, FLAGGED) if name in there]
    if not overlays:
        return None
    said = []
    if SD in there:
        said.append(
            "The standard deviation of the error, brighter where the result is less sure: 90 % of the "
            "errors are "
            "expected within 1.645 times it."
        )
    if TRUSTED in there:
        said.append(
            "Orange (move “trusted” below the pictures): where the error is expected to be less than half "
            "the local contrast. The promise is about slices that were predicted from others; it is none for "
            "a single lesion."
        )
    if FLAGGED in there:
        said.append(
            "Flagged: where the slices contradict what anchor or image show, or show the head elsewhere; the "
            "figure tells the two apart, the warnings name the largest."
        )
    element = view_element(
        view,
        "trust",
        [RESTORED],
        f"{shown.target.label} restored, in three planes, with {' and '.join(overlays)} over it",
        "The restored image under what is known of its error.",
        overlays=overlays,
    )
    metrics = shown.target.metrics
    names = {
        "disagree": "prior_disagrees", "part": "trusted_part",
        "risk": "trusted_risk", "everywhere": "untrusted_risk",
    }  # fmt: skip
    shares = {name: _percent(metrics.get(column, "n/a")) for name, column in names.items()}
    body = rendered(_TEMPLATE, text=" ".join(said), element=element, metrics=metrics, **shares)
    return shown.section("trust", "Trust", body)


def _percent(fraction: str) -> str:
    try:
        return f"{100 * float(fraction):.2g} %"
    except ValueError:
        return fraction
