"""Which transforms of other pipelines lead from a target to the anchor; pure.

Names as fMRIPrep and sMRIPrep 25.2, ASLPrep and QSIPrep 26.1 write them (docs/pipelines.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from atlasgs_bids.bids.images import ImageFile, same_grid
from atlasgs_bids.bids.inputs.transforms import TransformFile
from atlasgs_bids.imaging.registration.itk_files import TransformStep

_OF_TARGET = {"dwi": ("dwi", "dwiref", "distortiongroup"), "asl": ("asl", "aslref")}
"""Labels of the space that a target lies in, where its suffix is not the only one."""
_T1W = ("T1w", "anat")
_ON_THE_WAY = (*_T1W, "ACPC", "subject", "aslref")
"""Spaces between a target and a T1w; ``anat``, ``ACPC`` and ``subject`` (of all b0) are QSIPrep's."""
_NO_ENTITIES = ("extension", "datatype", "suffix", "desc", "space", "res")

_NOT_PLAIN = (".h5", ".gz")
"""Endings of files that may hold a displacement field: an affine of the same name is taken before them."""

_ALIKE_MM = 1e-3
"""Up to which two grids are one."""

Space = tuple[object, ...]


@dataclass(frozen=True)
class Position:
    """Where other pipelines have a target."""

    steps: tuple[TransformStep, ...] = ()
    """Files that lead from it to the anchor, its own first; none: it has to be registered."""
    warnings: tuple[str, ...] = ()


def find_position(
    anchor: ImageFile,
    target: ImageFile,
    transforms: Sequence[TransformFile],
    preprocessed: Sequence[ImageFile],
) -> Position:
    """The shortest way from a target to a T1w that is the anchor, through the transforms of a participant.

    A file without an entity that the target has applies to it (``from-FLAIR`` to ``acq-axial_FLAIR``).
    ``preprocessed`` are the T1w images that say which pipeline's T1w the anchor is.
    """
    if anchor.entities["suffix"] != "T1w":
        return Position()
    usable = [t for t in transforms if not _of_another_t1w(t, anchor, transforms, preprocessed)]
    ways = _ways(target, usable, _roots_of_anchor(anchor, transforms, preprocessed))
    goal: Space = ("anchor",) if "desc" in anchor.entities else ("orig", *_own(anchor.entities))
    if goal in ways:
        return Position(ways[goal])
    elsewhere = [steps[0].path.name for space, steps in ways.items() if space[-1] in _T1W]
    if not elsewhere:
        return Position()
    warning = (
        f"{elsewhere[0]} leads to a T1w that is not the anchor ({anchor.path.name}), so the target is "
        "registered instead; to use it, give the pipeline of that T1w with -d, before the others"
    )
    return Position(warnings=(warning,))


def _ways(
    target: ImageFile, transforms: Sequence[TransformFile], roots_of_anchor: set[Path]
) -> dict[Space, tuple[TransformStep, ...]]:
    """Every space that can be reached from a target, and the fewest files that lead there."""
    labels = _OF_TARGET.get(target.entities["suffix"], (target.entities["suffix"],))

    def space(transform: TransformFile, label: str) -> Space | None:
        in_anat = transform.entities["datatype"] == "anat"
        applies = set(_own(transform.entities)) <= set(_own(target.entities))
        if label in labels and applies and transform.entities["datatype"] == target.entities["datatype"]:
            return ("target",)
        if label == "orig" and in_anat:
            return ("orig", *_own(transform.entities))
        if label in _ON_THE_WAY and (in_anat or applies):
            of_anchor = label in _T1W and transform.root in roots_of_anchor
            return ("anchor",) if of_anchor else (transform.root, label)
        return None

    hops: list[tuple[int, bool, bool, str, Space | None, Space | None, TransformStep]] = []
    for transform in transforms:
        ends = space(transform, transform.source), space(transform, transform.reference)
        for inverted, (here, there) in enumerate((ends, ends[::-1])):
            step = TransformStep(transform.path, bool(inverted))
            order = (-len(transform.entities), bool(inverted), transform.path.suffix in _NOT_PLAIN)
            hops.append((*order, transform.path.as_posix(), here, there, step))
    hops.sort(key=lambda hop: hop[:4])
    ways: dict[Space, tuple[TransformStep, ...]] = {("target",): ()}
    ahead: list[Space] = [("target",)]
    for at in ahead:
        for *_, here, there, step in hops:
            if here == at and there is not None and there not in ways:
                ways[there] = (*ways[at], step)
                ahead.append(there)
    return ways


def _roots_of_anchor(
    anchor: ImageFile, transforms: Sequence[TransformFile], preprocessed: Sequence[ImageFile]
) -> set[Path]:
    """Pipelines whose T1w the preprocessed anchor is: it lies there, or they had none of their own and were
    given one that was ready, or theirs has the same grid."""
    if "desc" not in anchor.entities:
        return set()
    roots = set()
    for root in {transform.root for transform in transforms}:
        own = [image for image in preprocessed if image.path.is_relative_to(root)]
        of_anat = [t for t in transforms if t.root == root and _is_anat(t)]
        made_one = any("orig" in (t.source, t.reference) for t in of_anat)
        alike = any(image.path == anchor.path or same_grid(image, anchor, _ALIKE_MM) for image in own)
        if alike or not (own or made_one):
            roots.add(root)
    return roots


def _of_another_t1w(
    transform: TransformFile,
    anchor: ImageFile,
    transforms: Sequence[TransformFile],
    preprocessed: Sequence[ImageFile],
) -> bool:
    """Whether a transform belongs to the T1w of another session than the anchor's."""
    session = transform.entities.get("session")
    if session is None or session == anchor.entities.get("session"):
        return False
    root = transform.root
    sessions = {i.entities.get("session") for i in preprocessed if i.path.is_relative_to(root)}
    sessions |= {
        t.entities.get("session")
        for t in transforms
        if t.root == root and _is_anat(t) and {t.source, t.reference} == {"anat", "ACPC"}
    }
    return session in sessions


def _is_anat(transform: TransformFile) -> bool:
    return transform.entities["datatype"] == "anat"


def _own(entities: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in entities.items() if name not in _NO_ENTITIES))
