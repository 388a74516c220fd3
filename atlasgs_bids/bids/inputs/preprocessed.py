"""What other pipelines left behind: preprocessed T1w images and transforms to them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from atlasgs_bids.bids.entities import parse_entities
from atlasgs_bids.bids.images import IMAGE_EXTENSIONS, ImageFile, read_header

_OWN = ("suffix", "extension", "datatype", "desc", "from", "to", "mode", "res")
_FOLDERS = ("anat", "dwi", "perf", "func")


def find_preprocessed(folders: Mapping[str, Path], participant: str) -> list[ImageFile]:
    """The ``desc-preproc_T1w`` images in T1w space below the given derivative folders."""
    found = []
    for path in _files(folders.values(), participant, ("anat",), "*_desc-preproc_T1w.nii*"):
        entities = parse_entities(path)
        if entities["extension"] in IMAGE_EXTENSIONS and entities.get("space", "T1w") == "T1w":
            header, problem = read_header(path)
            found.append(ImageFile(path, entities, {}, header, problem))
    return found


def find_transform(anchor: ImageFile, target: ImageFile) -> Path | None:
    """The ITK text file of the anchor's own pipeline that leads from a target to it; None: there is none.

    A file without an entity that the target has applies to it (``from-FLAIR`` to ``acq-axial_FLAIR``).
    """
    if "desc" not in anchor.entities:
        return None
    root = next(
        folder for folder in anchor.path.parents if folder.name == f"sub-{anchor.entities['subject']}"
    ).parent
    pattern = f"*_from-{target.entities['suffix']}_to-T1w_mode-image_*xfm.txt"
    candidates = []
    for path in _files([root], target.entities["subject"], _FOLDERS, pattern):
        own = {name: value for name, value in parse_entities(path).items() if name not in _OWN}
        if own.items() <= target.entities.items():
            candidates.append((len(own), path.as_posix(), path))
    return max(candidates)[2] if candidates else None


def _files(roots: Iterable[Path], participant: str, datatypes: Iterable[str], pattern: str) -> list[Path]:
    paths = []
    for root in roots:
        for datatype in datatypes:
            for session in ("", "ses-*/"):
                paths += sorted(root.glob(f"sub-{participant}/{session}{datatype}/{pattern}"))
    return paths
