"""What other pipelines left behind: T1w images that are ready, and series in place of the raw ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from atlasgs_bids.bids.entities import DATATYPES, parse_entities
from atlasgs_bids.bids.images import IMAGE_EXTENSIONS, ImageFile, read_header
from atlasgs_bids.bids.inputs.companions import with_companions
from atlasgs_bids.bids.inputs.sidecars import Sidecar, SidecarFiles
from atlasgs_bids.errors import ConfigurationError, InputError

_SERIES = ("dwi", "asl")
_LABELS = {"control": ("control", "label"), "deltam": ("deltam",), "cbf": ("cbf",)}
"""By what an ASL series is quantified from: what ASLPrep keeps of it, beside M0 volumes."""


def find_preprocessed(folders: Mapping[str, Path], participant: str) -> list[ImageFile]:
    """The ``desc-preproc_T1w`` images in T1w space below the given derivative folders."""
    found = []
    for path in _files(folders.values(), participant, ("anat",), "*_desc-preproc_T1w.nii*"):
        entities = parse_entities(path)
        if entities["extension"] in IMAGE_EXTENSIONS and entities.get("space", "T1w") == "T1w":
            header, problem = read_header(path)
            found.append(ImageFile(path, entities, {}, header, problem))
    return found


def check_targets_from(name: str, derivatives: Mapping[str, Path]) -> None:
    """Raise ConfigurationError where ``--targets-from`` names nothing, or a pipeline without series."""
    if name not in derivatives:
        given = f"-d gives {', '.join(derivatives)}" if derivatives else "-d gives none"
        raise ConfigurationError(f"--targets-from {name}: {given}; add -d {name}=PATH")
    if not series_kinds(derivatives[name]):
        raise ConfigurationError(
            f"--targets-from {name}: {derivatives[name]} holds no sub-*/dwi/*_desc-preproc_dwi.nii.gz and no "
            "sub-*/perf/*_desc-preproc_asl.nii.gz, expected one; check the path, or leave the option out"
        )


@cache
def series_kinds(root: Path) -> tuple[str, ...]:
    """Suffixes of the series that a pipeline preprocesses, by what it left of any participant."""
    return tuple(
        suffix
        for suffix in _SERIES
        if any(
            True
            for session in ("", "ses-*/")
            for _ in root.glob(f"sub-*/{session}{DATATYPES[suffix]}/*_desc-preproc_{suffix}.nii*")
        )
    )


def in_place_of_raw(
    images: Sequence[ImageFile], name: str | None, derivatives: Mapping[str, Path], participant: str
) -> list[ImageFile]:
    """The images, with the series that pipeline ``name`` preprocessed in place of the raw ones of their kind.

    They keep the names of the raw ones, so that results are called alike. What one lacks (sidecar fields, an
    ASL context) is its raw series'. A raw series of a kind that the pipeline handles, but left nothing of in
    the series' own geometry, has a problem.
    """
    if name is None:
        return list(images)
    root = derivatives[name]
    found = []
    for suffix in _SERIES:
        pattern = f"*_desc-preproc_{suffix}.nii*"
        found += _files([root], participant, (DATATYPES[suffix],), pattern)
    native = [path for path in found if "space" not in parse_entities(path)]
    sidecars = SidecarFiles(root, lambda _: False)
    replaced: list[ImageFile] = []
    taken: set[Path] = set()
    for image in images:
        if image.entities["suffix"] not in series_kinds(root):
            replaced.append(image)
            continue
        path = next((path for path in native if _covers(path, image)), None)
        if path is None:
            resampled = [path.name for path in found if _covers(path, image)]
            replaced.append(replace(image, problem=_missing(image, name, resampled)))
        elif path not in taken:
            taken.add(path)
            replaced.append(_series(path, sidecars.of_image(path), image, root))
    return replaced


def _covers(path: Path, raw: ImageFile) -> bool:
    """Whether a preprocessed series is made from a raw one, or from several of which it is one."""
    own = {n: v for n, v in parse_entities(path).items() if n not in ("desc", "space", "res", "extension")}
    return own.items() <= raw.entities.items()


def _series(path: Path, sidecar: Sidecar, raw: ImageFile, root: Path) -> ImageFile:
    """A preprocessed series, under its raw series' name."""
    header, problem = read_header(path)
    entities = {name: value for name, value in parse_entities(path).items() if name != "desc"}
    # Volumes that were realigned have no slices that were acquired at one time.
    stated = {name: value for name, value in raw.sidecar.items() if name != "SliceTiming"}
    context = raw.asl_context
    n_volumes = header.shape[3] if header is not None and len(header.shape) > 3 else 1
    if context is not None and (kept := _kept(context, n_volumes)):
        n_raw, context = len(context), tuple(context[i] for i in kept)
        of_volumes = {n: v for n, v in stated.items() if isinstance(v, list) and len(v) == n_raw}
        stated |= {name: [values[i] for i in kept] for name, values in of_volumes.items()}
    fields = {**stated, **sidecar.fields}
    image = ImageFile(path, entities, fields, header, problem or sidecar.problem)
    try:
        return with_companions(image, root, context)
    except InputError as error:
        return replace(image, problem=image.problem or str(error))


def _kept(context: Sequence[str], n_volumes: int) -> list[int] | None:
    """Volumes of a raw ASL series that ASLPrep keeps; None: all, or they are not as many as there are.

    >>> _kept(("m0scan", "control", "label", "cbf"), 3)
    [0, 1, 2]
    """
    if len(context) == n_volumes:
        return None
    kind = next((kind for kind in _LABELS if kind in context), None)
    kept = [i for i, volume in enumerate(context) if kind and volume in (*_LABELS[kind], "m0scan")]
    return kept if len(kept) == n_volumes else None


def _missing(raw: ImageFile, name: str, resampled: Sequence[str]) -> str:
    suffix = raw.entities["suffix"]
    seen = f"only {', '.join(resampled)}, which is resampled" if resampled else "none"
    remedy = "run ASLPrep with --output-spaces asl" if suffix == "asl" else "let it write that"
    return (
        f"{raw.path.name}: --targets-from {name} has {seen}, expected *_desc-preproc_{suffix}.nii.gz in the "
        f"series' own geometry, without space-; {remedy}, or leave the option out to restore the raw series"
    )


def _files(roots: Iterable[Path], participant: str, datatypes: Iterable[str], pattern: str) -> list[Path]:
    paths = []
    for root in roots:
        for datatype in datatypes:
            for session in ("", "ses-*/"):
                paths += sorted(root.glob(f"sub-{participant}/{session}{datatype}/{pattern}"))
    return paths
