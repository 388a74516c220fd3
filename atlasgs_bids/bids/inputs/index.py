"""The images of a participant by their names, found through pybids; its only importer."""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids import BIDSLayout, BIDSLayoutIndexer
from bids.layout import Query
from bids.layout.models import Config

from atlasgs_bids.bids.entities import parse_entities
from atlasgs_bids.bids.images import IMAGE_EXTENSIONS
from atlasgs_bids.bids.inputs.database import current_database
from atlasgs_bids.errors import InputError
from atlasgs_bids.runtime.files import names_in

_FOLDERS = ("anat", "dwi", "perf")
_ASKED = ("suffix", "extension")
_QUERIES = {None: Query.NONE, "Query.NONE": Query.NONE, "*": Query.ANY, "Query.ANY": Query.ANY}
_QUERIES |= {"Query.REQUIRED": Query.ANY, "Query.OPTIONAL": Query.OPTIONAL}


@dataclass(frozen=True)
class Unreadable:
    """A folder of a participant that cannot be listed."""

    session: str | None
    datatype: str | None
    """``anat``; None: the whole session."""
    problem: str


@dataclass(frozen=True)
class ParticipantFiles:
    """The files of a participant that may be images, and the folders that could not be looked into."""

    paths: tuple[Path, ...]
    unreadable: tuple[Unreadable, ...]


def list_files(bids_dir: Path, participant: str) -> ParticipantFiles:
    """Every NIfTI file in a participant's folders; InputError where the participant's own cannot be read."""
    subject_dir = bids_dir / f"sub-{participant}"
    top = names_in(subject_dir)
    sessions = [name.removeprefix("ses-") for name in top if re.fullmatch("ses-.+", name)]
    paths: list[Path] = []
    unreadable: list[Unreadable] = []
    for session in (None, *sessions):
        folder = subject_dir if session is None else subject_dir / f"ses-{session}"
        try:
            inside = top if session is None else names_in(folder)
        except InputError as error:
            unreadable.append(Unreadable(session, None, str(error)))
            continue
        for datatype in sorted(set(_FOLDERS) & set(inside)):
            try:
                names = names_in(folder / datatype)
            except InputError as error:
                unreadable.append(Unreadable(session, datatype, str(error)))
                continue
            paths += [folder / datatype / name for name in names if _may_be_image(name)]
    return ParticipantFiles(tuple(paths), tuple(unreadable))


def _may_be_image(name: str) -> bool:
    """Whether a name is that of an image: no hidden file, and text, which pybids' database asks for."""
    return name.endswith(IMAGE_EXTENSIONS) and not name.startswith(".") and name.isprintable()


def find_images(
    bids_dir: Path,
    participant: str,
    files: ParticipantFiles,
    queries: Mapping[str, Mapping[str, Any]],
    database_dir: Path | None = None,
) -> dict[str, list[Path]]:
    """For each kind of input the files that its query finds, sorted; ``database_dir`` keeps the index."""
    layout = _index(bids_dir, participant, files, database_dir)
    found: dict[str, list[Path]] = {}
    for kinds in _asked_together(queries):
        query = {name: _query(value) for name, value in queries[kinds[0]].items()}
        if len(kinds) > 1:
            query["suffix"] = [queries[kind]["suffix"] for kind in kinds]
        paths = sorted({Path(hit.path) for hit in layout.get(scope="self", **query)})
        for kind in kinds:
            suffix = queries[kind].get("suffix")
            found[kind] = [p for p in paths if len(kinds) == 1 or parse_entities(p)["suffix"] == suffix]
    return found


def _asked_together(queries: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Kinds that differ in their suffix alone: a question for each of seven is half the time of an index."""
    groups: dict[str, list[str]] = {}
    for kind, query in queries.items():
        suffix, rest = query.get("suffix"), {n: value for n, value in query.items() if n != "suffix"}
        alike = isinstance(suffix, str) and suffix not in _QUERIES
        groups.setdefault(repr(rest) if alike else kind, []).append(kind)
    return list(groups.values())


def _query(value: Any) -> Any:
    """The pybids query of a filter's JSON value: null is "must be absent", "*" is "must be there"."""
    return _QUERIES.get(value, value) if value is None or isinstance(value, str) else value


def _index(
    bids_dir: Path, participant: str, files: ParticipantFiles, database_dir: Path | None
) -> BIDSLayout:
    settings = {"validate": False, "derivatives": False, "config": _asked_config()}
    indexer = _FilesIndexer(files.paths)
    if database_dir is None:
        return BIDSLayout(bids_dir, indexer=indexer, **settings)
    contents = ("names", _ASKED, str(bids_dir))
    with current_database(database_dir, bids_dir, participant, contents) as (path, reset):
        return BIDSLayout(bids_dir, indexer=indexer, database_path=path, reset_database=reset, **settings)


@functools.cache
def _asked_config() -> dict[str, Any]:
    """pybids' own definitions of what is asked for: all of them cost every index 0.1 s more."""
    entities = Config.load("bids").entities
    return {
        "name": "names",
        "entities": [{"name": name, "pattern": entities[name].pattern} for name in _ASKED],
    }


class _FilesIndexer(BIDSLayoutIndexer):
    """Indexes the names of given files, and nothing of their content.

    pybids' own walk goes through the whole dataset, and ends where one link leads to a place that this user
    may not see; its reading of sidecars ends at a null, a number out of place or a file without the right.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        super().__init__(index_metadata=False)
        self.paths = tuple(paths)

    def _index_dir(self, path: Any, config: Any, force: Any = None) -> tuple[list[Any], list[Any]]:  # noqa: ARG002
        entities = {name: entity for part in config for name, entity in part.entities.items()}
        indexed = [self._index_file(path, entities) for path in self.paths]
        return [file for file, _ in indexed], [tag for _, tags in indexed for tag in tags]
