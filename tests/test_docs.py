"""README, the site that docs/ makes, licence and citation: nothing leads nowhere, nothing is left out."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest
import yaml
from matplotlib import image as pictures

from atlasgs_bids.app.cli import main as atlasgs
from atlasgs_bids.app.render import main as atlasgs_render
from atlasgs_bids.app.status import main as atlasgs_status
from atlasgs_bids.version import __version__

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
MOST_README_BYTES = 7_100
"""Half of what it once was."""
PAGES = ("Start", "How to choose", "Usage", "Outputs", "Report", "Python", "On a cluster", "Method", "Study")
NOT_FOR_USAGE = {
    "version",
    "n_gaussians",
    "scaffold_steps",
    "regularization",
    "tolerance",
    "max_iterations",
    "seed",
}
"""Options of atlasgs that --help alone explains: for developers, or for themselves."""
ELSEWHERE = {
    "bids_database_dir", "skip_bids_validation", "stop_on_first_crash", "work_dir", "notrack", "verbosity",
    "dry_run",
}  # fmt: skip


def build(folder, *options):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", *options, "-d", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)


class _Page(HTMLParser):
    """Links, sources and anchors of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):  # noqa: ARG002 - the parser calls it so
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    ended = build(folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


def test_every_link_of_the_site_leads_somewhere(site):
    pages = {path: _Page(path.read_text("utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 30
    broken, n_inner = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            n_inner += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            lost = parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors
            if not target.exists() or lost:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert n_inner > 1000
    assert broken == []


def test_a_link_to_nowhere_would_stop_the_build(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("[usage](usage.md) [there](other.md#nowhere)\n")
    (docs / "other.md").write_text("# Other\n")
    config = yaml.safe_load(re.sub("!!python/name:", "", (ROOT / "mkdocs.yml").read_text("utf-8")))
    kept = {key: config[key] for key in ("site_name", "theme", "validation")}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(kept))
    ended = build(tmp_path / "site", "-f", str(tmp_path / "mkdocs.yml"))
    assert ended.returncode != 0
    assert "usage.md" in ended.stderr
    assert "nowhere" in ended.stderr


def test_the_site_has_its_parts_and_every_decision(site):
    text = (site / "index.html").read_text("utf-8")
    for name in (*PAGES, "Decisions"):
        assert re.search(rf'<span class="md-ellipsis">\s*(<[^>]*>\s*)*{name}\b', text), name
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        assert f"decisions/{path.stem}/" in text
    assert not (site / "site").exists()


def test_no_page_fetches_anything_from_elsewhere(site):
    """Scripts, styles and images; a page with a diagram fetches what draws it when it is opened."""
    for path in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img)\b[^>]*>", path.read_text("utf-8")):
            source = re.search(r'(?:src|href)="?([^" >]*)', tag)
            assert source is None or not source[1].startswith(("http", "//")) or 'rel="canonical"' in tag, tag


def test_the_readme_starts_with_a_picture_and_is_short():
    first = README.splitlines()[0]
    path = ROOT / re.fullmatch(r"!\[.+\]\((docs/images/\w+\.png)\)", first)[1]
    assert pictures.imread(path).std() > 0.1
    assert len(README.encode()) < MOST_README_BYTES
    assert "VolumeRenderingData" in README
    assert "MIT" in README
    introduction = README.split("# AtlasGS\n")[1].split("\n## ")[0].strip()
    assert len(introduction.splitlines()) <= 5
    for line in ("    make demo ", "    make test "):
        assert line in README


def test_every_link_of_the_readme_leads_to_a_file():
    links = [urlsplit(link) for link in re.findall(r"\]\(([^)\s]+)\)", README)]
    inner = [link for link in links if not link.scheme]
    assert len(inner) > 15
    assert [link.path for link in inner if not (ROOT / link.path).exists()] == []
    for link in inner:
        if link.fragment:
            titles = re.findall(r"^#+ (.+)$", (ROOT / link.path).read_text("utf-8"), re.MULTILINE)
            assert link.fragment in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}


COMMANDS = {"atlasgs": atlasgs, "atlasgs-render": atlasgs_render, "atlasgs-status": atlasgs_status}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_usage_explains_the_options(command):
    page = (ROOT / "docs" / "usage.md").read_text("utf-8")
    table = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    options = [param for param in command.params if isinstance(param, click.Option)]
    names = {o.name: o.opts for o in options if o.name not in NOT_FOR_USAGE | ELSEWHERE and not o.hidden}
    assert len(names) > (15 if command is not atlasgs_status else 2)
    assert [name for name, opts in names.items() if not any(f"`{o}" in table for o in opts)] == []
    known = {o for each in COMMANDS.values() for option in each.params for o in option.opts}
    said = {
        name
        for cell in re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
        for name in re.findall(r"--[\w-]+", cell)
    }
    assert said <= known


def test_the_licence_is_whole_and_stated_where_it_is_looked_for():
    licence = (ROOT / "LICENSE").read_text("utf-8")
    for part in ("Version 2.0, January 2004", "9. Accepting Warranty", "END OF TERMS AND CONDITIONS"):
        assert part in licence
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert 'license = "Apache-2.0"\nlicense-files = ["LICENSE"]\n' in project
    assert 'org.opencontainers.image.licenses="Apache-2.0"' in (ROOT / "Dockerfile").read_text("utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert (citation["license"], citation["version"]) == ("Apache-2.0", __version__)
    assert citation["authors"] == [{"name": "AtlasGS contributors"}]
    assert citation["references"][0]["url"] == "https://arxiv.org/abs/2606.02961"
