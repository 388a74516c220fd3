"""A BIDS dataset -> the images of one participant; the only importer of pybids."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bids import BIDSLayout, BIDSLayoutIndexer
from bids.layout import Query

from atlasgs_bids.bids.companions import inherited, read_asl_context, read_gradients
from atlasgs_bids.bids.database import current_database
from atlasgs_bids.bids.entities import DATATYPES, INPUT_SUFFIXES, parse_entities
from atlasgs_bids.bids.images import IMAGE_EXTENSIONS, ImageFile, ImageHeader, read_header
from atlasgs_bids.bids.masks import find_brain_masks
from atlasgs_bids.bids.preprocessed import find_preprocessed
from atlasgs_bids.errors import InputError

__all__ = [
    "ImageFile",
    "ImageHeader",
    "SubjectInputs",
    "discover_participant",
    "list_participants",
    "list_sessions",
]

_OTHER_FOLDERS = r"^/(code|models|sourcedata|stimuli|derivatives|phenotype)(/|$)"
_OTHER_DATATYPES = r"(func|fmap|eeg|ieeg|emg|meg|pet|beh|micr|motion|nirs|mrs)(/|$)"
_QUERIES = {None: Query.NONE, "Query.NONE": Query.NONE, "*": Query.ANY, "Query.ANY": Query.ANY}
_QUERIES |= {"Query.REQUIRED": Query.ANY, "Query.OPTIONAL": Query.OPTIONAL}


@dataclass(frozen=True)
class SubjectInputs:
    """What one session of a participant (or the participant, where there are no sessions) has."""

    participant: str
    session: str | None
    anchors: tuple[ImageFile, ...]
    """Every T1w of the participant, this session's or not."""
    targets: tuple[ImageFile, ...]
    """The images of every other kind of this session."""
    brain_masks: tuple[ImageFile, ...]
    problem: str | None
    preprocessed: tuple[ImageFile, ...] = ()
    """T1w images that another pipeline made ready."""


def list_participants(bids_dir: Path) -> list[str]:
    """Labels of the participants, without ``sub-``, sorted."""
    return _labels(bids_dir, "sub")


def list_sessions(bids_dir: Path, participant: str) -> list[str]:
    """Labels of a participant's sessions, without ``ses-``, sorted."""
    return _labels(bids_dir / f"sub-{participant}", "ses")


def discover_participant(
    bids_dir: Path,
    participant: str,
    session_ids: Sequence[str] = (),
    bids_filters: Mapping[str, Mapping[str, Any]] | None = None,
    derivatives: Mapping[str, Path] | None = None,
    database_dir: Path | None = None,
) -> list[SubjectInputs]:
    """The images of each session of a participant, in the order of the sessions.

    One index per participant: quick on a large dataset, and whatever breaks it breaks this one only.
    ``database_dir`` keeps the indexes for later runs.
    """
    try:
        broken = _broken_sidecars(bids_dir, participant)
        found = _find_images(bids_dir, participant, bids_filters or {}, broken, database_dir)
        masks = find_brain_masks(bids_dir, participant, derivatives or {})
        preprocessed = find_preprocessed(derivatives or {}, participant)
    except Exception as error:  # noqa: BLE001  pybids raises OSError, ValueError and its own kinds
        problem = f"the dataset's index cannot be built: {error}; run the BIDS validator on the dataset"
        return [SubjectInputs(participant, None, (), (), (), problem)]
    anchors = found.pop("t1w")
    targets = [image for images in found.values() for image in images]
    sessions = {image.entities.get("session") for image in (*anchors, *targets)}
    if session_ids:
        sessions &= set(session_ids)
    elif not sessions:
        sessions = {None}
    return [
        SubjectInputs(
            participant,
            session,
            anchors=tuple(anchors),
            targets=tuple(image for image in targets if image.entities.get("session") == session),
            brain_masks=tuple(masks),
            problem=None,
            preprocessed=tuple(preprocessed),
        )
        for session in sorted(sessions, key=lambda label: label or "")
    ]


def _labels(folder: Path, key: str) -> list[str]:
    pattern = re.compile(rf"{key}-([0-9a-zA-Z+]+)")
    matches = (pattern.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
    return sorted(match.group(1) for match in matches if match)


def _find_images(
    bids_dir: Path,
    participant: str,
    bids_filters: Mapping[str, Mapping[str, Any]],
    broken: Mapping[Path, str],
    database_dir: Path | None,
) -> dict[str, list[ImageFile]]:
    queries = {
        kind: {
            "suffix": suffix, "datatype": DATATYPES.get(suffix, "anat"), "extension": list(IMAGE_EXTENSIONS)
        }
        | {entity: _query(value) for entity, value in bids_filters.get(kind, {}).items()}
        for kind, suffix in INPUT_SUFFIXES.items()
    }  # fmt: skip
    suffixes = [query["suffix"] for query in queries.values()]
    layout = _index(bids_dir, participant, suffixes, broken, database_dir)
    folder = re.compile(rf"sub-{re.escape(participant)}/(ses-[^/]+/)?(anat|dwi|perf)")
    found: dict[str, list[ImageFile]] = {}
    for kind, query in queries.items():
        # invalid_filters: a sidecar field in a filter is unknown to pybids where no sidecar has it.
        hits = layout.get(scope="raw", invalid_filters="allow", **query)
        paths = {Path(hit.path): hit for hit in hits}
        found[kind] = [
            _image_file(path, paths[path].get_metadata(), broken, bids_dir)
            for path in sorted(paths)
            if folder.fullmatch(path.parent.relative_to(bids_dir).as_posix())
        ]
    return found


def _query(value: Any) -> Any:
    """The pybids query of a filter's JSON value: null is "must be absent", "*" is "must be there"."""
    return _QUERIES.get(value, value) if value is None or isinstance(value, str) else value


def _index(
    bids_dir: Path,
    participant: str,
    suffixes: list[Any],
    broken: Mapping[Path, str],
    database_dir: Path | None,
) -> BIDSLayout:
    ignored = [
        re.compile(_OTHER_FOLDERS),
        re.compile(rf"^/sub-(?!{re.escape(participant)}(/|$))"),
        re.compile(rf"^/sub-[^/]+/(ses-[^/]+/)?{_OTHER_DATATYPES}"),
        *(re.compile(f"^/{re.escape(path.relative_to(bids_dir).as_posix())}$") for path in broken),
    ]
    flat = [suffix for entry in suffixes for suffix in (entry if isinstance(entry, list) else [entry])]
    indexer = BIDSLayoutIndexer(ignore=ignored, suffix=flat, extension=[*IMAGE_EXTENSIONS, ".json"])
    if database_dir is None:
        return BIDSLayout(bids_dir, validate=False, derivatives=False, indexer=indexer)
    contents = (flat, [pattern.pattern for pattern in ignored])
    with current_database(database_dir, bids_dir, participant, contents) as (path, reset):
        return BIDSLayout(
            bids_dir, False, derivatives=False, indexer=indexer, database_path=path, reset_database=reset
        )


def _broken_sidecars(bids_dir: Path, participant: str) -> dict[Path, str]:
    """JSON files that no image can inherit from, and why; one such file aborts pybids' whole index."""
    subject_dir = bids_dir / f"sub-{participant}"
    folders = ("", *(f"{datatype}/" for datatype in ("anat", "dwi", "perf")))
    patterns = [f"{session}{folder}*.json" for session in ("", "ses-*/") for folder in folders]
    paths = [*bids_dir.glob("*.json"), *(path for pattern in patterns for path in subject_dir.glob(pattern))]
    broken = {}
    for path in sorted(paths):
        problem = _sidecar_problem(path)
        if problem is not None:
            broken[path] = problem
    return broken


def _sidecar_problem(path: Path) -> str | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"sidecar {path.name} is a broken link; fetch it (`datalad get`) or remove it"
    except (OSError, ValueError) as error:
        return f"sidecar {path.name} is not valid JSON ({error}); correct or remove it"
    if not isinstance(content, dict):
        return f"sidecar {path.name} holds no JSON object; correct or remove it"
    return None


def _image_file(
    path: Path, sidecar: Mapping[str, Any], broken: Mapping[Path, str], bids_dir: Path
) -> ImageFile:
    header, problem = read_header(path)
    for json_path, reason in broken.items():
        if problem is None and _inherits(path, json_path):
            problem = reason
    image = ImageFile(path, parse_entities(path), dict(sidecar), header, problem)
    try:
        return _with_companions(image, bids_dir)
    except InputError as error:
        return replace(image, problem=problem or str(error))


def _with_companions(image: ImageFile, bids_dir: Path) -> ImageFile:
    """The image with its gradients or its ASL context; InputError where they are missing."""
    suffix = image.entities["suffix"]
    if suffix == "dwi":
        found = [inherited(image.path, "dwi", extension, bids_dir) for extension in (".bval", ".bvec")]
        if found[0] is None or found[1] is None:
            missing = "bvec" if found[0] else "bval"
            raise InputError(
                f"{image.path.name} has no {missing} file, expected one beside it or above it; "
                "convert the scan again from DICOM, or leave it out with --bids-filter-file"
            )
        return replace(image, gradients=read_gradients(found[0], found[1]))
    if suffix == "asl":
        context = inherited(image.path, "aslcontext", ".tsv", bids_dir)
        if context is None:
            raise InputError(
                f"{image.path.name} has no aslcontext.tsv, expected one that says what each volume is; write "
                "it as BIDS describes it"
            )
        return replace(image, asl_context=read_asl_context(context))
    return image


def _inherits(image: Path, sidecar: Path) -> bool:
    """Whether the inheritance principle applies a sidecar to an image."""
    if sidecar.parent not in image.parents:
        return False
    of_image, of_sidecar = parse_entities(image), parse_entities(sidecar)
    for name in ("datatype", "extension"):
        del of_sidecar[name]
    return of_sidecar.items() <= of_image.items()
