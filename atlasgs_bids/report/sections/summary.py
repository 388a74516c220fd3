"""What needs eyes first, what was found, chosen and refused, and with what it was computed."""

from dataclasses import dataclass

from atlasgs_bids.report.contents import PageContents, TargetContents
from atlasgs_bids.report.section import Section, key_of, rendered

_TEMPLATE = """
<ul class="verdicts">
{% for verdict in verdicts %}
<li class="{{ verdict.kind }}"><strong>{{ verdict.word }}</strong>
{% if verdict.key %}<a href="#{{ verdict.key }}">{{ verdict.label }}</a>{% else %}{{ verdict.label }}{%
endif %}
{% if verdict.text %}: {{ verdict.text }}{% endif %}</li>
{% endfor %}
</ul>
{% if page.plan %}
<h3>What was found, and what it is for</h3>
<div class="wide" tabindex="0" role="region" aria-label="The plan"><table class="stacked">
<thead><tr><th scope="col">role</th><th scope="col">image</th><th scope="col">why</th></tr></thead>
<tbody>
{% for row in page.plan %}
<tr><th scope="row">{{ row.role }}</th><td class="name">{{ row.name }}</td><td>{{ row.details }}</td></tr>
{% endfor %}
</tbody></table></div>
{% else %}
<p>No plan could be made for this session: see the errors.</p>
{% endif %}
<dl class="facts">
<dt>AtlasGS</dt><dd>{{ made_with }}</dd>
<dt>Device</dt><dd>{{ devices }}</dd>
<dt>Time</dt><dd>{{ time }}</dd>
<dt>Page written</dt><dd>{{ page.written }}</dd>
{% if page.group_page %}<dt>All participants</dt><dd><a href="{{ page.group_page }}">{{ page.group_page
}}</a></dd>{% endif %}
</dl>
"""


@dataclass(frozen=True)
class _Verdict:
    kind: str
    """``failed``, ``doubt`` or ``fine``: a colour. The word says the same without it."""
    label: str
    text: str
    key: str = ""

    @property
    def word(self) -> str:
        return {"failed": "✕ Failed", "doubt": "! Look", "fine": "✓ Restored"}[self.kind]


def summary(page: PageContents) -> Section:
    devices = dict.fromkeys(target.metrics["device"] for target in page.targets if "device" in target.metrics)
    made = dict.fromkeys(_version(target, page) for target in page.targets if target.finished)
    body = rendered(
        _TEMPLATE,
        page=page,
        verdicts=_verdicts(page),
        made_with=", ".join(made) or page.version,
        devices=", ".join(devices) or "nothing was computed",
        time=_time(page.targets),
    )
    return Section("summary", "Summary", body)


def _verdicts(page: PageContents) -> list[_Verdict]:
    """Failures, then doubts, then what went well."""
    found = [_Verdict("failed", failure.label, failure.message, "errors") for failure in page.failures]
    found += [_Verdict("doubt", page.label, text) for text in page.warnings]
    for target in page.targets:
        if not target.finished:
            continue
        key = key_of(target.label)
        doubts = [*target.warnings, *_measured_doubts(target)]
        found += [_Verdict("doubt", target.label, text, key) for text in doubts]
        if not doubts:
            found.append(
                _Verdict("fine", target.label, "nothing was found against it; look all the same", key)
            )
    if not found:
        found.append(_Verdict("doubt", page.label, "nothing to restore"))
    return sorted(found, key=lambda verdict: ("failed", "doubt", "fine").index(verdict.kind))


def _measured_doubts(target: TargetContents) -> list[str]:
    """What the metrics say that no warning says."""
    return ["the solver did not converge"] if target.metrics.get("solver_converged") == "False" else []


def _version(target: TargetContents, page: PageContents) -> str:
    settings = target.sidecar.get("Settings")
    return str(settings.get("version", page.version)) if isinstance(settings, dict) else page.version


def _time(targets: tuple[TargetContents, ...]) -> str:
    """Seconds of every target; that of the scaffold once, for it serves them all."""
    own, scaffold = [], 0.0
    for target in targets:
        seconds = {
            name: float(text)
            for name, text in target.metrics.items()
            if name.startswith("seconds_") and text not in ("n/a", "")
        }
        if not seconds:
            continue
        scaffold = max(scaffold, seconds.pop("seconds_scaffold", 0.0))
        own.append(f"{target.label} {sum(seconds.values()):.0f} s")
    if not own:
        return "nothing was computed"
    return f"scaffold {scaffold:.0f} s, {', '.join(own)}"
