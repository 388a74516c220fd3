"""The page of one session: one HTML file that loads nothing."""

import base64
import gzip
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from atlasgs_bids.errors import error_text
from atlasgs_bids.report.assets import policy, script, text_of, vendored
from atlasgs_bids.report.contents import PageContents, TargetContents
from atlasgs_bids.report.section import Section, ShownTarget, key_of, rendered
from atlasgs_bids.report.sections.about import about
from atlasgs_bids.report.sections.alignment import alignment
from atlasgs_bids.report.sections.anchor import anchor
from atlasgs_bids.report.sections.calibration import calibration
from atlasgs_bids.report.sections.errors import errors
from atlasgs_bids.report.sections.methods import methods
from atlasgs_bids.report.sections.metrics import metrics
from atlasgs_bids.report.sections.rating import rating
from atlasgs_bids.report.sections.result import result
from atlasgs_bids.report.sections.series import series
from atlasgs_bids.report.sections.slices import slices
from atlasgs_bids.report.sections.summary import summary
from atlasgs_bids.report.sections.trust import trust
from atlasgs_bids.report.sections.viewer import viewer
from atlasgs_bids.report.sections.warnings import warnings
from atlasgs_bids.report.thumbnails import thumbnail
from atlasgs_bids.report.views import TargetViews, target_views
from atlasgs_bids.report.volumes import encoded

logger = logging.getLogger(__name__)

FIRST: tuple[Callable[[PageContents], Section | None], ...] = (summary, errors, anchor)
OF_TARGETS: tuple[Callable[[ShownTarget], Section | None], ...] = (
    warnings, result, slices, alignment, calibration, trust, series, viewer, metrics,
)  # fmt: skip
LAST: tuple[Callable[[PageContents], Section | None], ...] = (rating, methods, about)

MOST_BYTES = 15_000_000
"""Of one target's images in a page, in base64."""
_SHRINK_AT_LEAST = 1.1
_VIEWER_LIBRARY = "niivue.umd.js.gz"

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="AtlasGS {{ page.version }}">
<title>{{ page.label }} · AtlasGS</title>
<style>{{ style }}</style>
</head>
<body>
<a class="skip" href="#main">To the content</a>
<header><p class="brand">AtlasGS</p><h1>{{ page.label }}</h1></header>
<nav aria-label="Sections"><ul>
{% for section in first %}<li><a href="#{{ section.key }}">{{ section.title }}</a></li>
{% endfor %}
{% for target in targets %}<li><a href="#{{ target.key }}">{{ target.label }}</a>
<ul>{% for section in target.sections %}<li><a href="#{{ section.key }}">{{ section.title }}</a></li>
{% endfor %}</ul></li>
{% endfor %}
{% for section in last %}<li><a href="#{{ section.key }}">{{ section.title }}</a></li>
{% endfor %}
</ul></nav>
<main id="main">
{% for section in first %}
<section id="{{ section.key }}"><h2>{{ section.title }}</h2>{{ section.body }}</section>
{% endfor %}
{% for target in targets %}
<article id="{{ target.key }}" class="target"><h2>{{ target.label }}</h2>
{% for section in target.sections %}
<section id="{{ section.key }}"><h3>{{ section.title }}</h3>{{ section.body }}</section>
{% endfor %}
{% for key, data in target.volumes.items() %}<script type="text/plain" id="{{ key }}">{{ data }}</script>
{% endfor %}
</article>
{% endfor %}
{% for section in last %}
<section id="{{ section.key }}"><h2>{{ section.title }}</h2>{{ section.body }}</section>
{% endfor %}
</main>
{% if library %}<script type="text/plain" id="niivue">{{ library }}</script>{% endif %}
{{ scripts }}
</body>
</html>
"""


@dataclass(frozen=True)
class DrawnPage:
    html: str
    thumbnails: dict[Path, bytes]
    """JPEG of each finished target, by where it goes."""


@dataclass(frozen=True)
class _DrawnTarget:
    key: str
    label: str
    sections: list[Section]
    volumes: dict[str, Markup]
    """8-bit images in base64, by key."""
    thumbnail: bytes | None


def drawn_page(page: PageContents) -> DrawnPage:
    """The whole page, and the small pictures that stand for its targets elsewhere."""
    done = [target for target in page.targets if target.finished]
    targets = [_drawn_target(target, page) for target in done]
    with_viewer = page.with_viewer and any(target.volumes for target in targets)
    scripts = [text_of("page.js"), text_of("viewer.js")]
    library = vendored(_VIEWER_LIBRARY) if with_viewer else b""
    allowed = [*scripts, gzip.decompress(library).decode()] if library else scripts
    html = rendered(
        _TEMPLATE,
        page=page,
        policy=policy(allowed),
        style=Markup(text_of("page.css")),
        first=[section for make in FIRST if (section := make(page))],
        targets=targets,
        last=[section for make in LAST if (section := make(page))],
        library=Markup(base64.b64encode(library).decode()),
        scripts=Markup("\n").join(script(text) for text in scripts),
    )
    small = {own.thumbnail: drawn.thumbnail for own, drawn in zip(done, targets, strict=True)}
    return DrawnPage(html, {path: content for path, content in small.items() if content is not None})


def _drawn_target(target: TargetContents, page: PageContents) -> _DrawnTarget:
    """Sections and volumes of a finished target; one whose images cannot be read still has its numbers."""
    key = key_of(target.label)
    views: TargetViews | None = None
    volumes: dict[str, Markup] = {}
    problem = ""
    if not target.is_series and page.anchor is not None:
        try:
            views, volumes = _within_limit(target, page, key)
        except Exception as error:  # noqa: BLE001 - whatever an image holds, the page says what is known
            problem = error_text(error)
            logger.warning("%s %s: the page shows no images: %s", page.label, target.label, problem)
    shown = ShownTarget(target, page, key, views, problem)
    sections = [section for make in OF_TARGETS if (section := make(shown))]
    return _DrawnTarget(key, target.label, sections, volumes, thumbnail(target, views))


def _within_limit(
    target: TargetContents, page: PageContents, key: str
) -> tuple[TargetViews, dict[str, Markup]]:
    """The views of a target and their volumes, in coarser voxels where they would take too many bytes."""
    assert page.anchor is not None
    shrink = 1.0
    while True:
        views = target_views(target, page.anchor, key, shrink)
        volumes: dict[str, Markup] = {}
        for view in (views.result, *views.slices, *views.alignment):
            for layer in view.layers:
                if layer.key not in volumes:
                    volumes[layer.key] = Markup(encoded(layer, view.grid))
        n_bytes = sum(map(len, volumes.values()))
        if n_bytes <= MOST_BYTES:
            return views, volumes
        shrink *= max(_SHRINK_AT_LEAST, 1.03 * (n_bytes / MOST_BYTES) ** (1 / 3))
