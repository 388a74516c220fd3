"""Measured rows on their way into the documents: kept as JSON, then tables between marks of a page."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
Row = dict[str, Any]


def with_row(path: Path, row: Row, setting: Sequence[str], order: Sequence[str], indent: int) -> list[Row]:
    """The row beside those of earlier runs in the file, in place of one of the same setting; all of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    rows = [own for own in rows if any(own[name] != row[name] for name in setting)] + [row]
    rows.sort(key=lambda own: [str(own[name]) for name in order])
    path.write_text(json.dumps(rows, indent=indent) + "\n", encoding="utf-8")
    return rows


def stored(content: Any, name: str) -> Path:
    """What was measured in docs/measured."""
    path = DOCS / "measured" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def markdown(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table, a text for each cell."""
    rows = [f"| {' | '.join(line)} |" for line in (heading, *lines)]
    return "\n".join([rows[0], "|---" * len(heading) + "|", *rows[1:]]) + "\n"


def put_between(page: Path, mark: str, table: str) -> None:
    """A table between the marks of that name in a page; where they are missing the program ends."""
    begin, end = (f"<!-- {mark}: {word} -->" for word in ("begin", "end"))
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        sys.exit(f"{page} has no {begin} and {end}, expected both where the tables go")
    page.write_text(f"{before}{begin}\n\n{table}\n{end}{after}", encoding="utf-8")
