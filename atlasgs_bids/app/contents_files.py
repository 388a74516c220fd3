"""Files of a derivative dataset that may be missing or damaged: a page says what is there."""

import json
from pathlib import Path
from typing import Any

from atlasgs_bids.runtime.files import load_text, load_tsv


def load_json(path: Path) -> dict[str, Any]:
    """A sidecar; empty where there is none, or none that can be read."""
    try:
        content = json.loads(load_text(path))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def load_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a table; none where it cannot be read."""
    try:
        return load_tsv(path)
    except (OSError, ValueError):
        return []
