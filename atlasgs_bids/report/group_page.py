"""The page of all participants: a table, a strip plot of each metric, a small picture of everybody."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from atlasgs_bids.report.assets import policy, script, text_of, vendored
from atlasgs_bids.report.pictures import at_most
from atlasgs_bids.report.section import rendered

_MOST_BYTES = 9_000_000
"""Of all small pictures; as base64 they take a third more."""
_FIRST_COLUMNS = (
    "sharpness_before", "sharpness_after", "consistency_to_noise", "registration_displacement",
    "registration_error", "fov_coverage", "prior_disagrees", "sd_median",
)  # fmt: skip
"""In the table from the start; the others on demand, for a thousand rows of fifty take a browser seconds."""


@dataclass(frozen=True)
class GroupImage:
    """One result among those of all participants."""

    kind: str
    """Suffix of the image: ``FLAIR``."""
    participant: str
    """``sub-01``, ``sub-01 ses-1``."""
    label: str
    """``FLAIR``, ``acq-axial_T2w``."""
    link: str
    """To its page, from the group's; empty where there is none."""
    metrics: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    rating: str = ""
    """``good``, ``doubtful``, ``bad`` or nothing."""
    thumbnail: Path | None = None


@dataclass(frozen=True)
class Missing:
    """Who has no results, and the page that says why."""

    participant: str
    link: str = ""


@dataclass(frozen=True)
class GroupContents:
    version: str
    written: str
    images: tuple[GroupImage, ...]
    missing: tuple[Missing, ...]
    dictionary: Mapping[str, Mapping[str, Any]]


_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="AtlasGS {{ group.version }}">
<title>All participants · AtlasGS</title>
<style>{{ style }}</style>
</head>
<body class="group">
<a class="skip" href="#main">To the content</a>
<header><p class="brand">AtlasGS</p><h1>All participants</h1>
<p>{{ group.images | length }} results, {{ group.missing | length }} without any; written {{ group.written
}}.</p></header>
<nav aria-label="Sections"><ul>
<li><a href="#missing">Missing</a></li><li><a href="#pictures">Pictures</a></li><li><a
href="#plots">Plots</a></li>
<li><a href="#table">Table</a></li></ul></nav>
<main id="main">
<section class="script filters" aria-label="Filters">
<label>Highlight <input list="people" id="highlight" autocomplete="off" placeholder="sub-01"></label>
<datalist id="people"></datalist>
<label>Kind <select id="kind"><option value="">all</option>
{% for kind in kinds %}<option>{{ kind }}</option>{% endfor %}</select></label>
<label>Warnings <select id="warned"><option value="">all</option><option value="yes">with warnings</option>
<option value="no">without</option></select></label>
<label>Rating <select id="rating"><option value="">all</option><option>good</option><option>doubtful</option>
<option>bad</option><option value="none">not rated</option></select></label>
<span id="count" role="status"></span>
</section>
<section id="missing"><h2>Missing</h2>
{% if group.missing %}
<p>No results, or none that were finished:</p>
<ul class="people">
{% for one in group.missing %}
<li>{% if one.link %}<a href="{{ one.link }}">{{ one.participant }}</a>{% else %}{{ one.participant }}, no
page{% endif %}</li>
{% endfor %}
</ul>
{% else %}
<p>Nobody.</p>
{% endif %}
</section>
<section id="pictures"><h2>Pictures</h2>
<div class="pictures">
{% for image in group.images %}
<figure class="picture{% if image.warnings %} warned{% endif %}" data-n="{{ loop.index0 }}">
{% if pictures[loop.index0] %}<img src="data:image/jpeg;base64,{{ pictures[loop.index0] }}"
decoding="async" alt="">{% endif %}
<figcaption>{% if image.link %}<a href="{{ image.link }}">{{ image.participant }} {{ image.label }}</a>{%
else -%}
{{ image.participant }} {{ image.label }}{% endif %}
{% if image.warnings %}<span class="mark" title="{{ image.warnings | join('; ') }}">! Look</span>{% endif %}
{% if image.rating %}<span class="rated">{{ image.rating }}</span>{% endif %}</figcaption>
</figure>
{% endfor %}
</div></section>
<section id="plots"><h2>Plots</h2>
<p class="noscript">The plots need scripts; the table below has the numbers.</p>
<p class="script">Each point is an image. Point at one to highlight it in every plot; click to open its
page. From the keyboard:
type a participant into Highlight, or step through the table.</p>
<div class="plots"></div></section>
<section id="table"><h2>Table</h2>
<button type="button" class="script" id="columns">Show all columns</button>
<div class="wide" tabindex="0" role="region" aria-label="Table of all results"><table>
<thead><tr><th scope="col">image</th><th scope="col">warnings</th><th scope="col">rating</th>
{% for name in columns %}<th scope="col" title="{{ meaning(name) }}">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for image in group.images %}
<tr data-n="{{ loop.index0 }}"><th scope="row">{% if image.link %}<a href="{{ image.link }}">{{
image.participant }}
{{ image.label }}</a>{% else %}{{ image.participant }} {{ image.label }}{% endif %}</th>
<td>{{ image.warnings | length or "" }}</td><td>{{ image.rating }}</td>
{% for name in columns %}<td class="number">{{ image.metrics.get(name, "") }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div></section>
</main>
<script type="application/json" id="data">{{ data | tojson }}</script>
{{ scripts }}
</body>
</html>
"""


def group_html(group: GroupContents) -> str:
    """The page as text; it loads nothing, and links to the pages beside it."""
    every = list(dict.fromkeys(name for image in group.images for name in image.metrics))
    scripts = [vendored("uplot.iife.min.js").decode(), text_of("group.js")]
    return rendered(
        _TEMPLATE,
        group=group,
        policy=policy(scripts),
        style=Markup(text_of("page.css") + text_of("group.css") + vendored("uplot.min.css").decode()),
        kinds=list(dict.fromkeys(image.kind for image in group.images)),
        columns=[name for name in _FIRST_COLUMNS if name in every],
        pictures=_pictures(group.images),
        meaning=lambda name: str(group.dictionary.get(name, {}).get("Description", "")),
        data=_data(group, every),
        scripts=Markup("\n").join(script(text) for text in scripts),
    )


def _data(group: GroupContents, every: Sequence[str]) -> dict[str, Any]:
    """What the script draws and filters: who, and each metric as a column, numbers where they are some."""
    return {
        "images": [
            [image.participant, image.label, image.kind, image.link, len(image.warnings), image.rating]
            for image in group.images
        ],
        "columns": {name: [_cell(image.metrics.get(name)) for image in group.images] for name in every},
        "meanings": {name: dict(group.dictionary.get(name, {})) for name in every},
    }


def _cell(text: str | None) -> float | str | None:
    if text is None or text == "n/a":
        return None
    try:
        value = float(text)
    except ValueError:
        return text
    return value if abs(value) < float("inf") else text


def _pictures(images: Sequence[GroupImage]) -> list[str]:
    """Of each image, in base64; smaller ones where there are many."""
    most = _MOST_BYTES / max(1, len(images))
    found = []
    for image in images:
        path = image.thumbnail
        content = path.read_bytes() if path is not None and path.exists() else b""
        found.append(base64.b64encode(at_most(content, most) if content else b"").decode())
    return found
