"""The decisions, however many there are, as the last part of the site's navigation."""

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """mkdocs calls it before it builds."""
    pages = sorted((Path(config["docs_dir"]) / "decisions").glob("*.md"))
    config["nav"] = [*config["nav"], {"Decisions": [f"decisions/{page.name}" for page in pages]}]
    return config
