"""Tables of a derivative dataset that may be missing or damaged: a page says what is there."""

from pathlib import Path

from atlasgs_bids.runtime.files import load_tsv


def load_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a table; none where it cannot be read."""
    try:
        return load_tsv(path)
    except (OSError, ValueError):
        return []
