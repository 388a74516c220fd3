"""What a section of a page is, and the templates that they are made from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

if TYPE_CHECKING:
    from atlasgs_bids.report.contents import PageContents, TargetContents
    from atlasgs_bids.report.views import TargetViews

# Everything that comes from a file is text: it is escaped, whatever it holds.
ENVIRONMENT = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)

ENVIRONMENT.policies["json.dumps_kwargs"] = {"sort_keys": False}


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    key: str
    """Of the heading's anchor."""
    title: str
    body: Markup


@dataclass(frozen=True)
class ShownTarget:
    """A target with the images that its sections show."""

    target: TargetContents
    page: PageContents
    key: str
    """Leads the keys of its sections."""
    views: TargetViews | None = None
    problem: str = ""
    """Why there are no views of a finished target."""

    @property
    def anchor_name(self) -> str:
        """What the session's anchor is called: ``T1w``."""
        return "anchor" if self.page.anchor is None else self.page.anchor.name

    def section(self, name: str, title: str, body: Markup) -> Section:
        return Section(f"{self.key}-{name}", title, body)


def rendered(template: str, **values: object) -> Markup:
    """A template filled in; what is no Markup is escaped."""
    return Markup(ENVIRONMENT.from_string(template).render(**values))


def key_of(text: str) -> str:
    """A text as a part of an HTML id.

    >>> key_of("acq-axial_T2w"), key_of("<b>")
    ('acq-axial-T2w', 'b')
    """
    return re.sub("[^0-9a-zA-Z]+", "-", text).strip("-") or "x"
