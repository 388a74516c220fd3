"""The house is as its documents say: modules, their length, what --help loads, the path of a FLAIR."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "atlasgs_bids"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
LONGEST_FILE, LONGEST_STATION, MOST_STATIONS = 300, 50, 12
HEAVY = ("torch", "numpy", "nibabel", "bids", "pandas", "matplotlib")

STATION = re.compile(r"^\| *(\d+) *\| *`(\w+)` *\| *`([\w/]+\.py)` *\|", re.MULTILINE)


def stations():
    """Number, function and file of each station of the path in docs/architecture.md."""
    return [(int(n), name, path) for n, name, path in STATION.findall(ARCHITECTURE.read_text("utf-8"))]


def test_only_four_modules_stand_at_the_top():
    assert {path.name for path in PACKAGE.glob("*.py")} == {
        "__init__.py", "__main__.py", "errors.py", "version.py",
    }  # fmt: skip


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_a_long_file_says_why(path):
    text = path.read_text("utf-8")
    reason = f"Longer than {LONGEST_FILE} lines: "
    is_long = len(text.splitlines()) > LONGEST_FILE
    assert (reason in (ast.get_docstring(ast.parse(text)) or "")) == is_long


@pytest.mark.parametrize("module", ["atlasgs_bids", "atlasgs_bids.app.render", "atlasgs_bids.app.status"])
def test_help_loads_nothing_heavy(module):
    command = [sys.executable, "-X", "importtime", "-m", module, "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in ended.stderr.splitlines()}
    assert "click" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_path_of_a_flair_has_few_stations():
    assert [number for number, _, _ in stations()] == list(range(1, len(stations()) + 1))
    assert 5 < len(stations()) <= MOST_STATIONS


@pytest.mark.parametrize(("number", "name", "path"), stations())
def test_each_station_is_a_function_that_fits_on_a_screen(number, name, path):
    tree = ast.parse((PACKAGE / path).read_text("utf-8"))
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    assert function.end_lineno - function.lineno + 1 <= LONGEST_STATION


def test_the_documents_name_files_that_exist():
    """Modules and rooms between backticks or in links, but for the names that a reader is to choose."""
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    texts = [page.read_text("utf-8") for page in pages]
    named = {
        path for text in texts for path in re.findall(r"(?<![\w/.])[a-z_]+(?:/[a-z_]+)*/[a-z_]+\.py\b", text)
    }
    assert len(named) > 20
    chosen = {"atlasgs_bids/core/priors/alike.py"}
    assert sorted(p for p in named - chosen if not (ROOT / p).exists() and not (PACKAGE / p).exists()) == []
