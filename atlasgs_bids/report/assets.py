"""The style sheet, the scripts and the libraries of others that a page carries inside it."""

import base64
import hashlib
from functools import cache
from importlib.resources import files

from markupsafe import Markup

_VENDORED = "vendor"


@cache
def text_of(name: str) -> str:
    """A file of the folder static."""
    return (files("atlasgs_bids.report") / "static" / name).read_text(encoding="utf-8")


@cache
def vendored(name: str) -> bytes:
    """A file of a library of others, as it lies in the package."""
    return (files("atlasgs_bids.report") / _VENDORED / name).read_bytes()


def script(text: str) -> Markup:
    """An inline script as it is: nothing of a dataset is ever in one."""
    assert "</script" not in text.lower(), "it would end early"
    return Markup(f"<script>{text}</script>")


def policy(scripts: list[str]) -> str:
    """The page's own rule for the browser: these scripts and no others, and no request to anywhere."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "font-src data:; connect-src data: blob:; worker-src blob:; form-action 'none'; base-uri 'none'"
    )
