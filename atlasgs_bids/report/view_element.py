"""A view as HTML: a picture that needs no script, which static/page.js makes one to scroll and flicker."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib import colormaps

from atlasgs_bids.report.pictures import below, beside, plane, png_uri
from atlasgs_bids.report.section import rendered
from atlasgs_bids.report.volumes import MASK, Layer, View

_STATIC_HEIGHT = 280
_TINT = np.array([255, 176, 0], dtype=np.float32)
"""Orange: told from grey by any eye."""
_COLOURS = (colormaps["viridis"](np.arange(256))[:, :3] * 255).astype(np.float32)
"""Told apart by readers who are colour blind; page.js has the same."""

_VIEW = """
<figure class="view" id="{{ view.key }}-{{ purpose }}" data-view='{{ spec | tojson }}'>
<div class="stage"><img src="{{ picture }}" alt="{{ alt }}"></div>
<div class="controls"></div>
<figcaption>{{ caption }}
{% for layer in captioned %}
<span class="unit">{{ layer.name }}: {{ layer.caption }}.</span>
{% endfor %}
</figcaption>
{% if view.warning %}
<p class="note">{{ view.warning }}</p>
{% endif %}
</figure>
"""


def view_element(
    view: View, purpose: str, names: Sequence[str], alt: str, caption: str, overlays: Sequence[str] = ()
) -> Markup:
    """Layers of a view to flicker and scroll between; without scripts, a picture of each of them.

    ``purpose`` tells it from other elements of the same view. ``overlays`` are tints and colours over the
    layer that is shown; the first one is on from the start.
    """
    layers = [view.layer(name) for name in [*names, *overlays]]
    spec = {
        "layers": [{"name": layer.name, "volume": layer.key, "kind": layer.kind} for layer in layers],
        "planes": view.planes,
        "shape": view.grid.shape,
        "sizes": [round(float(size), 4) for size in view.sizes_mm],
        "point": view.point,
    }
    first_overlay = view.layer(overlays[0]) if overlays else None
    return rendered(
        _VIEW,
        view=view,
        purpose=purpose,
        spec=spec,
        picture=png_uri(_static_picture(view, names, first_overlay)),
        alt=alt,
        caption=caption,
        captioned=[layer for layer in layers if layer.caption],
    )


def _static_picture(view: View, names: Sequence[str], overlay: Layer | None) -> npt.NDArray[np.uint8]:
    """A row for each layer, with its planes through the view's point; slices stand side by side."""
    rows = [[_drawn(view, view.layer(name), overlay, axis) for axis in view.planes] for name in names]
    if len(view.planes) == 1:
        return beside([row[0] for row in rows])
    return below([beside(row) for row in rows])


def _drawn(view: View, layer: Layer, overlay: Layer | None, axis: int) -> npt.NDArray[np.uint8]:
    """One plane of a layer, (rows, columns, 3) where something lies over it."""

    def of(own: Layer) -> npt.NDArray[np.uint8]:
        extents_mm = np.array(own.volume.shape) * view.sizes_mm
        heights_mm = {upright: float(extents_mm[1 if upright == 2 else 2]) for upright in view.planes}
        height = round(_STATIC_HEIGHT * heights_mm[axis] / max(heights_mm.values()))
        return plane(own.volume, axis, view.point[axis], view.sizes_mm, max(1, height))

    below_it = of(layer)
    if overlay is None:
        return below_it
    over = of(overlay)
    grey = np.repeat(below_it[..., None].astype(np.float32), 3, axis=2)
    share = over.astype(np.float32)[..., None] / 255
    colour = np.broadcast_to(_TINT, grey.shape) if overlay.kind == MASK else _COLOURS[over]
    return (grey * (1 - share) + colour * share).astype(np.uint8)
