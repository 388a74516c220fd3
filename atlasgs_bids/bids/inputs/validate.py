"""BIDS validation before a run: what stops it, and what is only said (docs/decisions/0002-validation.md)."""

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bids_validator import BIDSValidator

from atlasgs_bids.errors import ConfigurationError

logger = logging.getLogger("atlasgs_bids")

_TIMEOUT_S = 600
_N_NAMED = 5
_FOLDERS = ("anat", "dwi", "perf")
_SKIP = "correct it, or pass --skip-bids-validation"


def check_dataset(bids_dir: Path) -> None:
    """Raise ConfigurationError where dataset_description.json does not make this a raw BIDS dataset."""
    path = bids_dir / "dataset_description.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{path} is missing, expected in the root of a BIDS dataset; check bids_dir, {_SKIP}"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} is not valid JSON ({error}); {_SKIP}") from error
    missing = [
        field for field in ("Name", "BIDSVersion") if not isinstance(content, dict) or field not in content
    ]
    if missing:
        raise ConfigurationError(f"{path} has no {' and no '.join(missing)}, expected both; {_SKIP}")
    if content.get("DatasetType", "raw") != "raw":
        raise ConfigurationError(
            f"{path} says DatasetType {content['DatasetType']!r}, expected a raw dataset; "
            "point bids_dir to the raw dataset"
        )


def validation_errors(bids_dir: Path, participants: Sequence[str]) -> list[str]:
    """What the BIDS validator holds against the root files and these participants, one line an error.

    bids-validator-deno where it is installed, else the file-name rules that come with pybids.
    """
    participants = [participant for participant in participants if _is_readable(bids_dir, participant)]
    command = _validator_command()
    if command is not None:
        issues = _run_validator(command, bids_dir, participants)
        if issues is not None:
            return _lines(issues, participants)
    logger.info("bids-validator-deno did not run: only file names are checked")
    return _file_name_errors(bids_dir, participants)


def _is_readable(bids_dir: Path, participant: str) -> bool:
    """Whether the validator can look into a participant; one that it cannot look into ends it for all."""
    try:
        return all(
            os.access(path, os.R_OK | os.X_OK)
            for path in (bids_dir / f"sub-{participant}", *(bids_dir / f"sub-{participant}").glob("ses-*"))
        )
    except OSError:
        return False


def _validator_command() -> list[str] | None:
    """How to start the validator: this Python's own one first, for its script may not be on the PATH."""
    if importlib.util.find_spec("bids_validator_deno") is not None:
        return [sys.executable, "-c", "import bids_validator_deno as validator; validator.cli()"]
    script = shutil.which("bids-validator-deno")
    return [script] if script else None


def _run_validator(
    command: Sequence[str], bids_dir: Path, participants: Sequence[str]
) -> list[dict[str, Any]] | None:
    """The validator's issues of severity "error"; None where it could not run."""
    with tempfile.TemporaryDirectory(prefix="atlasgs-validate-") as folder:
        arguments = [folder, "--format", "json", "--ignoreWarnings"]
        try:
            _link_selection(bids_dir, participants, Path(folder))
            finished = subprocess.run(
                [*command, *arguments], capture_output=True, timeout=_TIMEOUT_S, check=False
            )
            issues = json.loads(finished.stdout)["issues"]["issues"]
        except (OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
            logger.debug("bids-validator-deno: %s", error)
            return None
    return [issue for issue in issues if issue.get("severity") == "error"]


def _link_selection(bids_dir: Path, participants: Sequence[str], view: Path) -> None:
    """Fill ``view`` with links to the root files and the participants: the validator reads nothing else."""
    names = [path.name for path in bids_dir.iterdir() if path.is_file() and path.name != "participants.tsv"]
    for name in (*names, *(f"sub-{participant}" for participant in participants)):
        (view / name).symlink_to((bids_dir / name).absolute())


def _lines(issues: Iterable[dict[str, Any]], participants: Sequence[str]) -> list[str]:
    prefixes = tuple(f"/sub-{participant}/" for participant in participants)
    found: dict[str, list[str]] = {}
    for issue in issues:
        location = issue.get("location") or ", ".join(issue.get("affects", []))
        in_root = location.count("/") == 1
        if in_root or (location.startswith(prefixes) and location.split("/")[-2] in _FOLDERS):
            code = " ".join(filter(None, [issue["code"], issue.get("subCode")]))
            found.setdefault(code, []).append(location)
    return [f"{code}: {_named(locations)}" for code, locations in found.items()]


def _named(locations: Sequence[str]) -> str:
    more = f" and {len(locations) - _N_NAMED} more" if len(locations) > _N_NAMED else ""
    return ", ".join(locations[:_N_NAMED]) + more


def _file_name_errors(bids_dir: Path, participants: Sequence[str]) -> list[str]:
    validator = BIDSValidator()
    paths = [
        path.relative_to(bids_dir).as_posix()
        for participant in participants
        for pattern in (f"{session}{folder}/*" for session in ("", "ses-*/") for folder in _FOLDERS)
        for path in sorted((bids_dir / f"sub-{participant}").glob(pattern))
    ]
    wrong = [f"/{path}" for path in paths if not validator.is_bids(f"/{path}")]
    return [f"not a BIDS file name: {_named(wrong)}"] if wrong else []
