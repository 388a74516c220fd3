"""The images of a target in a viewer, which is opened on click."""

from atlasgs_bids.report.section import Section, ShownTarget, rendered
from atlasgs_bids.report.views import INTERPOLATED, RESTORED

_TEMPLATE = """
<p class="noscript">The viewer needs scripts and WebGL 2.</p>
<div class="script viewer" data-viewer='{{ spec | tojson }}'>
<button type="button" class="open">Open the viewer</button>
<div class="bar" hidden>
<fieldset class="switch"><legend>Show</legend></fieldset>
<label>Restored over interpolated <input type="range" min="0" max="100" value="100" class="blend"></label>
<button type="button" class="close">Close</button>
</div>
<div class="canvases"></div>
<p class="location" role="status"></p>
</div>
{% if warning %}<p class="note">{{ warning }}</p>{% endif %}
<p>8-bit images, of {{ "%.2g" | format(size) }} mm voxels and cropped to the head. Click, drag and scroll;
one crosshair moves in all images.</p>
"""


def viewer(shown: ShownTarget) -> Section | None:
    if shown.views is None or not shown.page.with_viewer:
        return None
    view = shown.views.result
    named = [view.layer(name) for name in (shown.anchor_name, INTERPOLATED, RESTORED)]
    spec = {"label": shown.target.label, "images": [{"name": own.name, "volume": own.key} for own in named]}
    body = rendered(_TEMPLATE, spec=spec, warning=view.warning, size=float(view.sizes_mm.max()))
    return shown.section("viewer", "Viewer", body)
