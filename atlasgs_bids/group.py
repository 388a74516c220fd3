"""Every target's metrics -> one table for each kind of image."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atlasgs_bids.bids.dataset import check_out_dir
from atlasgs_bids.bids.derivatives import json_path
from atlasgs_bids.bids.entities import parse_entities
from atlasgs_bids.bids.files import load_tsv, save_json, save_tsv
from atlasgs_bids.config import RunConfig
from atlasgs_bids.errors import ConfigurationError

logger = logging.getLogger("atlasgs_bids")

_NO_COLUMN = ("subject", "session", "modality", "suffix", "extension", "datatype", "desc", "space")
_DICTIONARY = {
    "participant_id": {"Description": "Participant"},
    "session_id": {"Description": "Session; n/a where the dataset has none"},
}


def gather(config: RunConfig, participants: Sequence[str]) -> bool:
    """Write ``group_<suffix>.tsv`` and its JSON dictionary; False where there are no metrics at all.

    Participants without any metrics are named: they failed, or were not processed.
    """
    check_out_dir(config.out_dir)
    found = {participant: _metrics_of(config, participant) for participant in participants}
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
        absent = [p for p in participants if found[p] and not set(found[p]) & set(of_suffix)]
        if absent:
            logger.info("%s: none of %s", table_path.name, ", ".join(f"sub-{label}" for label in absent))
    missing = [participant for participant in participants if not found[participant]]
    line = f"{len(participants) - len(missing)} of {len(participants)} participants in group_*.tsv"
    if missing:
        line += f"; no results of {', '.join(f'sub-{label}' for label in missing)}"
    print(line)
    return True


def _metrics_of(config: RunConfig, participant: str) -> list[Path]:
    folder = config.out_dir / f"sub-{participant}"
    paths = [
        path
        for datatype in ("anat", "dwi", "perf")
        for session in ("", "ses-*/")
        for path in folder.glob(f"{session}{datatype}/sub-*_desc-sr_metrics.tsv")
    ]
    sessions = config.session_ids
    return sorted(path for path in paths if not sessions or parse_entities(path).get("session") in sessions)


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
        sidecar = json_path(path)
        if sidecar.exists():
            columns = {**json.loads(sidecar.read_text(encoding="utf-8")), **columns}
    names = dict.fromkeys(name for row in _rows(paths) for name in row)
    return {name: columns.get(name, {"Description": f"Entity {name} of the image"}) for name in names}
