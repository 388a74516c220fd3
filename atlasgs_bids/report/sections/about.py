"""How the page and the results came about, and how to make them again."""

from atlasgs_bids.report.assets import vendored
from atlasgs_bids.report.contents import PageContents
from atlasgs_bids.report.section import Section, rendered

_LICENCES = ("niivue.LICENSE.txt", "niivue.dependencies.LICENSE.txt")

_TEMPLATE = """
<h3>Command</h3>
<p>This page was written by</p>
<pre tabindex="0">{{ page.command }}</pre>
<h3>Settings</h3>
<p>Saved as <code>{{ page.stem }}.toml</code>, this makes the results again:
<code>atlasgs BIDS_DIR OUT_DIR participant --config-file {{ page.stem }}.toml</code></p>
<pre tabindex="0" id="settings">{{ page.settings_toml }}</pre>
<button type="button" class="script" data-copy="settings">Copy</button>
<p>AtlasGS {{ page.version }}; research software, no medical device: no diagnosis rests on it. The page
loads nothing from
any network and sends nothing anywhere.</p>
{% if licences %}
<details><summary>The viewer is NiiVue, with parts of others: their licences</summary>
<pre tabindex="0">{{ licences }}</pre></details>
{% endif %}
"""


def about(page: PageContents) -> Section:
    # Whoever passes the page on passes NiiVue on, and its licence asks for this.
    licences = (
        "\n\n".join(vendored(name).decode() for name in _LICENCES)
        if page.with_viewer and page.targets
        else ""
    )
    return Section("about", "About", rendered(_TEMPLATE, page=page, licences=licences))
