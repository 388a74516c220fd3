"""A form for who looks: good, doubtful or bad, what is wrong, saved as JSON by download."""

from atlasgs_bids.report.contents import PageContents
from atlasgs_bids.report.section import Section, rendered

ARTEFACTS = {
    "misaligned": "target and anchor do not lie on each other",
    "blurred": "blurred or in steps between slices",
    "invented": "shows what neither slices nor anchor have",
    "lost": "lacks what the slices have",
    "motion": "movement between slices",
    "uneven": "uneven brightness, stripes",
    "cut": "part of the head is missing",
    "other": "something else, see the comment",
}

_TEMPLATE = """
<p class="noscript">The form needs scripts.</p>
<form class="script rating" data-stem="{{ page.stem }}" data-label="{{ page.label }}" data-version="{{
page.version }}"
data-targets='{{ targets | tojson }}'>
{% for target in targets %}
<fieldset data-target="{{ target }}"><legend>{{ target }}</legend>
<div role="radiogroup" aria-label="Rating of {{ target }}">
{% for word in ("good", "doubtful", "bad") %}
<label><input type="radio" name="rating-{{ target }}" value="{{ word }}"> {{ word }}</label>
{% endfor %}
</div>
<div class="artefacts">
{% for name, text in artefacts.items() %}
<label><input type="checkbox" value="{{ name }}"> {{ text }}</label>
{% endfor %}
</div>
</fieldset>
{% endfor %}
<label class="comment">Comment<textarea name="comment" rows="3"></textarea></label>
<button type="submit">Save the rating</button>
<p class="note" role="status" aria-live="polite"></p>
</form>
<p>It is saved as <code>{{ page.stem }}_rating.json</code>; put it beside this page, and the next
<code>atlasgs ... group</code>
shows it on the group's page.</p>
"""


def rating(page: PageContents) -> Section | None:
    targets = [target.label for target in page.targets if target.finished]
    if not targets:
        return None
    return Section("rating", "Rating", rendered(_TEMPLATE, page=page, targets=targets, artefacts=ARTEFACTS))
