"""Every target's metrics -> one table for each kind of image, and one page of all."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atlasgs_bids.app.citation import save_citation
from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.group_page import GROUP_PAGE, write_group_page
from atlasgs_bids.bids.entities import parse_entities
from atlasgs_bids.bids.outputs.dataset import check_out_dir
from atlasgs_bids.bids.outputs.names import json_path
from atlasgs_bids.bids.outputs.results import result_sidecar
from atlasgs_bids.errors import ConfigurationError, InputError
from atlasgs_bids.report.methods import Described
from atlasgs_bids.runtime.files import load_json, load_tsv, names_in, save_json, save_tsv

logger = logging.getLogger("atlasgs_bids")

_NO_COLUMN = ("subject", "session", "modality", "suffix", "extension", "datatype", "desc")
_DICTIONARY = {
    "participant_id": {"Description": "Participant"},
    "session_id": {"Description": "Session; n/a where the dataset has none"},
}


def gather(config: RunConfig, participants: Sequence[str]) -> bool:
    """Write ``group_<suffix>.tsv`` and its JSON dictionary; False where metrics are missing or unreadable.

    Missing are those of all participants. One without any metrics is named: it failed, or was not processed.
    What cannot be read is named and left out.
    """
    check_out_dir(config.out_dir)
    problems: list[str] = []
    found = {participant: _metrics_of(config, participant, problems) for participant in participants}
    for problem in problems:
        logger.error("%s", problem)
    paths = [path for of_participant in found.values() for path in of_participant]
    if not paths:
        print(
            f"found no *_desc-sr_metrics.tsv in {config.out_dir}, expected the results of the participant "
            "level; run it first"
        )
        return False
    suffixes = sorted({parse_entities(path)["modality"] for path in paths})
    for suffix in suffixes:
        of_suffix = [path for path in paths if parse_entities(path)["modality"] == suffix]
        table_path = config.out_dir / f"group_{suffix}.tsv"
        try:
            save_tsv(_rows(of_suffix), table_path)
            save_json(_dictionary(of_suffix), json_path(table_path))
        except OSError as error:
            raise ConfigurationError(f"{table_path} cannot be written ({error.strerror})") from error
        logger.info("%s: %d images", table_path, len(of_suffix))
        with_one = {parse_entities(path)["subject"] for path in of_suffix}
        absent = [p for p in participants if found[p] and p not in with_one]
        if absent:
            logger.info("%s: none of %s", table_path.name, ", ".join(f"sub-{label}" for label in absent))
    save_citation([_described(path) for path in paths], config)
    try:
        write_group_page(config, [(path, row) for path in paths for row in load_tsv(path)], participants)
    except OSError as error:
        raise ConfigurationError(f"{GROUP_PAGE} cannot be written ({error.strerror})") from error
    missing = [participant for participant in participants if not found[participant]]
    line = f"{len(participants) - len(missing)} of {len(participants)} participants in group_*.tsv"
    if missing:
        line += f"; no results of {', '.join(f'sub-{label}' for label in missing)}"
    if problems:
        line += f"; left out: {'; '.join(problems)}"
    print(line)
    return not problems


def _metrics_of(config: RunConfig, participant: str, problems: list[str]) -> list[Path]:
    """The metrics of a participant that can be read; ``problems`` grows by what cannot."""
    paths = []
    for folder in _folders_of(config.out_dir / f"sub-{participant}", problems):
        for path in sorted(folder.glob("sub-*_mod-*_desc-sr_metrics.tsv")):
            if config.session_ids and parse_entities(path).get("session") not in config.session_ids:
                continue
            try:
                load_tsv(path)
                _columns_of(path)
            except (OSError, ValueError, TypeError) as error:
                problems.append(
                    f"{path.name} and its JSON file are no table ({error}); run it again (--overwrite)"
                )
            else:
                paths.append(path)
    return sorted(paths)


def _folders_of(subject_dir: Path, problems: list[str]) -> list[Path]:
    """The folders of a participant's results, session by session."""
    folders: list[Path] = []
    if not subject_dir.exists():
        return folders
    try:
        names = names_in(subject_dir)
    except InputError as error:
        problems.append(str(error))
        return folders
    for parent in (subject_dir, *(subject_dir / name for name in names if name.startswith("ses-"))):
        for datatype in ("anat", "dwi", "perf"):
            try:
                if (parent / datatype).exists() and names_in(parent / datatype):
                    folders.append(parent / datatype)
            except (InputError, OSError) as error:
                problems.append(str(error))
    return folders


def _described(metrics: Path) -> Described:
    """One result for the methods text."""
    rows = load_tsv(metrics)
    suffix = parse_entities(metrics)["modality"]
    return Described(suffix, load_json(result_sidecar(metrics)), rows[0] if rows else {})


def _columns_of(metrics: Path) -> dict[str, Any]:
    """What the columns of one image's metrics mean."""
    path = json_path(metrics)
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _rows(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """One row for each image: who, the entities in which the images differ, and the metrics."""
    entities = [parse_entities(path) for path in paths]
    names = dict.fromkeys(name for of_image in entities for name in of_image if name not in _NO_COLUMN)
    differing = [name for name in names if len({of_image.get(name) for of_image in entities}) > 1]
    return [
        {
            "participant_id": f"sub-{of_image['subject']}",
            "session_id": f"ses-{of_image['session']}" if "session" in of_image else None,
            **{name: of_image.get(name) for name in differing},
            **metrics,
        }
        for path, of_image in zip(paths, entities, strict=True)
        for metrics in load_tsv(path)
    ]


def _dictionary(paths: Sequence[Path]) -> dict[str, Any]:
    """What each column means; the first image that explains a metric counts."""
    columns = dict(_DICTIONARY)
    for path in paths:
        columns = {**_columns_of(path), **columns}
    names = dict.fromkeys(name for row in _rows(paths) for name in row)
    return {name: columns.get(name, {"Description": f"Entity {name} of the image"}) for name in names}
