"""The transforms between images that other pipelines left, by the spaces in their names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from atlasgs_bids.bids.entities import parse_entities

_FOLDERS = ("anat", "dwi", "perf")
_EXTENSIONS = (".txt", ".tfm", ".mat", ".h5", ".nii.gz")
_DESCRIPTIONS = (None, "coreg")
"""``desc-hmc`` holds a transform for each volume of a series."""


@dataclass(frozen=True)
class TransformFile:
    """An ITK file that, by its name, brings an image of the space ``source`` to ``reference``."""

    path: Path
    root: Path
    """Folder of the pipeline's results, as given with ``-d``."""
    entities: Mapping[str, str]
    """Without those that only a transform has; with ``datatype``."""
    source: str
    """``from-``: ``aslref``, ``T1w``."""
    reference: str
    """``to-``."""


def find_transforms(derivatives: Mapping[str, Path], participant: str) -> list[TransformFile]:
    """Every transform between images of a participant, in the order of the pipelines."""
    return [
        found
        for root in derivatives.values()
        for session in ("", "ses-*/")
        for datatype in _FOLDERS
        for path in sorted(root.glob(f"sub-{participant}/{session}{datatype}/*_from-*_to-*_xfm.*"))
        if (found := _transform_file(path, root)) is not None
    ]


def _transform_file(path: Path, root: Path) -> TransformFile | None:
    entities = parse_entities(path)
    if entities.pop("extension") not in _EXTENSIONS or entities.pop("mode", "image") != "image":
        return None
    if entities.pop("desc", None) not in _DESCRIPTIONS or entities.pop("suffix") != "xfm":
        return None
    source, reference = entities.pop("from"), entities.pop("to")
    return TransformFile(path, root, entities, source, reference)
