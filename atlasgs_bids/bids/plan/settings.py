"""What a plan depends on beyond the images."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PlanSettings:
    """Each default stands here; the command line reads it."""

    anchor: str = "auto"
    """BIDS suffix of the anchor; ``auto``: the first of ``ANCHOR_SUFFIXES`` that is there and isotropic."""
    anchor_session: str | None = None
    """Session whose image is the anchor of every session, without ``ses-``; None: each session's own."""
    slice_thickness_mm: Mapping[str, float] = field(default_factory=dict)
    """Thickness by BIDS suffix, before that of the sidecars; ``""``: of every other target."""
    combine_stacks: str = "orthogonal"
    """Stacks of one contrast in one result: ``none``, ``orthogonal`` (no two parallel) or ``all``."""

    def given_thickness_mm(self, suffix: str) -> float | None:
        """The slice thickness that the user gave for images of a suffix."""
        return self.slice_thickness_mm.get(suffix, self.slice_thickness_mm.get(""))
