"""A BIDS dataset -> the images of one participant, each with what is wrong with it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atlasgs_bids.bids.entities import (
    ANCHOR_SUFFIXES,
    DATATYPES,
    INPUT_SUFFIXES,
    TARGET_SUFFIXES,
    parse_entities,
)
from atlasgs_bids.bids.images import IMAGE_EXTENSIONS, ImageFile, ImageHeader, read_header
from atlasgs_bids.bids.inputs.companions import with_companions
from atlasgs_bids.bids.inputs.filters import fits
from atlasgs_bids.bids.inputs.ignore import read_bidsignore
from atlasgs_bids.bids.inputs.index import ParticipantFiles, find_images, list_files
from atlasgs_bids.bids.inputs.masks import find_brain_masks
from atlasgs_bids.bids.inputs.preprocessed import find_preprocessed, in_place_of_raw
from atlasgs_bids.bids.inputs.sidecars import Sidecar, SidecarFiles
from atlasgs_bids.bids.inputs.transforms import TransformFile, find_transforms
from atlasgs_bids.errors import InputError, error_text
from atlasgs_bids.runtime.files import names_in

__all__ = [
    "ImageFile",
    "ImageHeader",
    "SubjectInputs",
    "discover_participant",
    "list_participants",
    "list_sessions",
]


@dataclass(frozen=True)
class SubjectInputs:
    """What one session of a participant (or the participant, where there are no sessions) has."""

    participant: str
    session: str | None
    anchors: tuple[ImageFile, ...]
    """Every image of the participant that may be the anchor by its kind, this session's or not."""
    targets: tuple[ImageFile, ...]
    """The images of this session of every kind but T1w and UNIT1; they may be among the anchors."""
    brain_masks: tuple[ImageFile, ...]
    problem: str | None
    preprocessed: tuple[ImageFile, ...] = ()
    """T1w images that another pipeline made ready."""
    transforms: tuple[TransformFile, ...] = ()
    """Of other pipelines, of all sessions."""
    ignored: tuple[Path, ...] = ()
    """Images of this session that ``.bidsignore`` excludes."""
    failures: tuple[tuple[str, str], ...] = ()
    """Label and message of what could not be looked into."""
    warnings: tuple[str, ...] = ()
    inversions: tuple[ImageFile, ...] = ()
    """The ``MP2RAGE`` images of the participant, from which a UNIT1 was computed."""


@dataclass(frozen=True)
class _Found:
    """The images of a participant, all of its sessions together."""

    images: list[ImageFile]
    ignored: list[Path]
    """Those that ``.bidsignore`` excludes."""
    warnings: tuple[str, ...]

    def of(self, *suffixes: str) -> tuple[ImageFile, ...]:
        return tuple(image for image in self.images if image.entities["suffix"] in suffixes)


def list_participants(bids_dir: Path) -> list[str]:
    """Labels of the participants, without ``sub-``, sorted; InputError where the folder cannot be read."""
    return _labels(bids_dir, "sub")


def list_sessions(bids_dir: Path, participant: str) -> list[str]:
    """Labels of a participant's sessions, without ``ses-``, sorted; InputError as for participants."""
    return _labels(bids_dir / f"sub-{participant}", "ses")


def discover_participant(
    bids_dir: Path,
    participant: str,
    session_ids: Sequence[str] = (),
    bids_filters: Mapping[str, Mapping[str, Any]] | None = None,
    derivatives: Mapping[str, Path] | None = None,
    database_dir: Path | None = None,
    targets_from: str | None = None,
) -> list[SubjectInputs]:
    """The images of each session of a participant, in the order of the sessions; trouble is told, not raised.

    One index per participant: quick on a large dataset, and whatever breaks it breaks this one only.
    ``database_dir`` keeps the indexes for later runs; ``targets_from`` names the derivatives whose series
    replace raw ones. Nothing where these sessions have no images, or none that ``.bidsignore`` leaves.
    """
    try:
        files = list_files(bids_dir, participant)
        found = _find_images(bids_dir, participant, files, bids_filters or {}, database_dir)
        targets = in_place_of_raw(found.of(*TARGET_SUFFIXES), targets_from, derivatives or {}, participant)
        masks = find_brain_masks(bids_dir, participant, derivatives or {})
        preprocessed = find_preprocessed(derivatives or {}, participant)
        transforms = find_transforms(derivatives or {}, participant)
    except InputError as error:
        return [SubjectInputs(participant, None, (), (), (), str(error))]
    except Exception as error:  # noqa: BLE001  pybids raises OSError, ValueError and its own kinds
        problem = (
            f"the index of sub-{participant} cannot be built ({error_text(error)}), expected files that this "
            "user may read; run the BIDS validator on the dataset"
        )
        return [SubjectInputs(participant, None, (), (), (), problem)]
    return [
        SubjectInputs(
            participant,
            session,
            anchors=found.of(*ANCHOR_SUFFIXES),
            targets=tuple(image for image in targets if image.entities.get("session") == session),
            brain_masks=tuple(masks),
            problem=_problem(files, session),
            preprocessed=tuple(preprocessed),
            transforms=tuple(transforms),
            ignored=tuple(p for p in found.ignored if parse_entities(p).get("session") == session),
            failures=_failures(files, session),
            warnings=found.warnings,
            inversions=found.of("MP2RAGE"),
        )
        for session in _sessions(files, found, session_ids)
    ]


def _failures(files: ParticipantFiles, session: str | None) -> tuple[tuple[str, str], ...]:
    """Folders of a session that cannot be read, by datatype, and why."""
    return tuple(
        (folder.datatype, folder.problem)
        for folder in files.unreadable
        if folder.session == session and folder.datatype is not None
    )


def _sessions(files: ParticipantFiles, found: _Found, session_ids: Sequence[str]) -> list[str | None]:
    """Those of the images and of folders that cannot be read, as far as they are asked for, in order."""
    sessions = {i.entities.get("session") for i in found.of(*ANCHOR_SUFFIXES, *TARGET_SUFFIXES)}
    sessions |= {folder.session for folder in files.unreadable}
    if session_ids:
        sessions &= set(session_ids)
    elif not sessions and not found.ignored:
        sessions = {None}
    return sorted(sessions, key=lambda label: label or "")


def _problem(files: ParticipantFiles, session: str | None) -> str | None:
    """Why a whole session cannot be looked into."""
    of_session = [folder for folder in files.unreadable if folder.session == session]
    return next((folder.problem for folder in of_session if folder.datatype is None), None)


def _labels(folder: Path, key: str) -> list[str]:
    pattern = re.compile(rf"{key}-([0-9a-zA-Z+]+)")
    matches = (pattern.fullmatch(name) for name in names_in(folder))
    return [match.group(1) for match in matches if match and _is_folder(folder / match.group(0))]


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder, or may be one that this user cannot see: then its own reading says so."""
    try:
        return path.is_dir()
    except OSError:
        return True


def _find_images(
    bids_dir: Path,
    participant: str,
    files: ParticipantFiles,
    bids_filters: Mapping[str, Mapping[str, Any]],
    database_dir: Path | None,
) -> _Found:
    filters = {
        kind: {
            "suffix": suffix,
            "datatype": DATATYPES.get(suffix, "anat"),
            "extension": list(IMAGE_EXTENSIONS),
        }
        | dict(bids_filters.get(kind, {}))
        for kind, suffix in INPUT_SUFFIXES.items()
    }
    # pybids matches the other entities against the whole path, and calls run-5F the fifth one.
    queries = {
        kind: {name: asked[name] for name in ("suffix", "extension")} for kind, asked in filters.items()
    }
    paths = find_images(bids_dir, participant, files, queries, database_dir)
    ignored = read_bidsignore(bids_dir)
    sidecars = SidecarFiles(bids_dir, ignored.matches)
    found = _Found([], [], (ignored.warning,) if ignored.warning else ())
    known: set[Path] = set()
    for kind, asked in filters.items():
        of_name = {name: value for name, value in asked.items() if not name[:1].isupper()}
        of_sidecar = {name: value for name, value in asked.items() if name not in of_name}
        of_name = {name: value for name, value in of_name.items() if name not in queries[kind]}
        for path in paths[kind]:
            # A filter may ask for the suffix of another kind: {"t1w": {"suffix": "UNIT1"}}.
            if path in known or not fits(parse_entities(path), of_name):
                continue
            if ignored.matches(path):
                found.ignored.append(path)
                continue
            sidecar = sidecars.of_image(path)
            # An image whose sidecar cannot be read may be what is asked for: its problem has to be seen.
            if sidecar.problem is None and not fits(sidecar.fields, of_sidecar):
                continue
            known.add(path)
            found.images.append(_image_file(path, sidecar, bids_dir))
    return found


def _image_file(path: Path, sidecar: Sidecar, bids_dir: Path) -> ImageFile:
    header, problem = read_header(path)
    problem = problem or sidecar.problem
    image = ImageFile(path, parse_entities(path), sidecar.fields, header, problem)
    try:
        return with_companions(image, bids_dir)
    except Exception as error:  # noqa: BLE001 - whatever breaks one image breaks no other
        return replace(image, problem=problem or f"{path.name}: {error_text(error)}")
