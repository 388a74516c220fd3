"""How the page and the results came about, and how to make them again."""

from atlasgs_bids.report.contents import PageContents
from atlasgs_bids.report.section import Section, rendered

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
"""


def about(page: PageContents) -> Section:
    return Section("about", "About", rendered(_TEMPLATE, page=page))
