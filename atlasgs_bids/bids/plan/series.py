"""What the volumes of a 4-D image are; pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from atlasgs_bids.bids.entities import entity_string
from atlasgs_bids.bids.images import ImageFile
from atlasgs_bids.bids.inputs.companions import B0_AT_MOST
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.series import SeriesKinds

_SHELL_STEP = 100.0


@dataclass(frozen=True)
class SeriesPlan(SeriesKinds):
    """The volumes of a DWI, ASL or M0 series of a dataset."""

    registered_by: ImageFile | None = None
    """A separate image in the same position whose registration is used (M0)."""


def plan_series(image: ImageFile, session_images: Sequence[ImageFile]) -> SeriesPlan | None:
    """What the volumes are; None for a 3-D image. InputError where image or companions are unusable."""
    if image.problem is not None or image.header is None:
        raise InputError(image.problem or "no header")
    shape, suffix = image.header.shape, image.entities["suffix"]
    n_volumes = shape[3] if len(shape) > 3 else 1
    expected = "one 3-D volume" if suffix not in ("dwi", "asl", "m0scan") else "a 3-D volume or a 4-D series"
    too_many = n_volumes > 1 and suffix not in ("dwi", "asl", "m0scan")
    if len(shape) < 3 or too_many or any(n != 1 for n in shape[4:]):
        raise InputError(
            f"{image.path.name} has shape {shape}, expected {expected}; "
            "extract the volume that you want, or leave the file out with --bids-filter-file"
        )
    if suffix == "dwi":
        return _diffusion(image, n_volumes)
    if suffix == "asl":
        return _labelling(image, n_volumes, session_images)
    if suffix == "m0scan" and n_volumes > 1:
        return SeriesPlan(("m0scan",) * n_volumes, ("m0scan",) * n_volumes, tuple(range(n_volumes)))
    return None


def _diffusion(image: ImageFile, n_volumes: int) -> SeriesPlan:
    assert image.gradients is not None, "an image without gradients has a problem"
    b_values = image.gradients.b_values
    if len(b_values) != n_volumes:
        raise InputError(
            f"{image.path.name} has {n_volumes} volumes, its bval file {len(b_values)} values, expected as "
            "many; convert the scan again from DICOM"
        )
    kinds = tuple(
        "b0" if value <= B0_AT_MOST else f"b{max(1, round(value / _SHELL_STEP)) * _SHELL_STEP:.0f}"
        for value in b_values
    )
    # Without a b0 the weakest weighting looks most like one.
    weakest = min(set(kinds), key=lambda kind: int(kind[1:]))
    return SeriesPlan(kinds, kinds, tuple(i for i, kind in enumerate(kinds) if kind == weakest))


def _labelling(image: ImageFile, n_volumes: int, session_images: Sequence[ImageFile]) -> SeriesPlan:
    assert image.asl_context is not None, "an image without context has a problem"
    kinds = image.asl_context
    if len(kinds) != n_volumes:
        raise InputError(
            f"{image.path.name} has {n_volumes} volumes, its aslcontext.tsv {len(kinds)} rows, expected as "
            "many; correct the table"
        )
    # One prior for both: else the difference of the results is not the result of the difference.
    contrasts = tuple("control" if kind == "label" else kind for kind in kinds)
    shown = next((kind for kind in ("m0scan", "control", "cbf", "deltam") if kind in contrasts), contrasts[0])
    reference = tuple(i for i, contrast in enumerate(contrasts) if contrast == shown)
    separate = None if "m0scan" in kinds else _separate_m0(image, session_images)
    return SeriesPlan(kinds, contrasts, reference, separate)


def _separate_m0(image: ImageFile, session_images: Sequence[ImageFile]) -> ImageFile | None:
    """The session's M0 scan for a series: the one that names it, else the one that shares most entities."""
    scans = [i for i in session_images if i.entities["suffix"] == "m0scan" and i.problem is None]
    # A preprocessed series stands for the raw one, which is what a scan names.
    names = (image.path.name, f"{entity_string(image.entities)}_{image.entities['suffix']}.nii")
    named = [scan for scan in scans if any(name in text for text in _intended_for(scan) for name in names)]
    ignored = ("suffix", "extension", "direction")
    own = {name: value for name, value in image.entities.items() if name not in ignored}

    def shared(scan: ImageFile) -> int:
        return sum(scan.entities.get(name) == value for name, value in own.items())

    candidates = named or [scan for scan in scans if not _intended_for(scan)]
    return max(candidates, key=shared, default=None)


def _intended_for(scan: ImageFile) -> list[str]:
    stated = scan.sidecar.get("IntendedFor")
    named = stated if isinstance(stated, list) else [stated]
    return [text for text in named if isinstance(text, str)]
