"""Which participants and sessions of a dataset a run is asked for."""

from collections.abc import Sequence
from pathlib import Path

from atlasgs_bids.bids.inputs.discover import list_participants, list_sessions
from atlasgs_bids.errors import ConfigurationError, InputError


def selected_participants(
    bids_dir: Path, participant_labels: Sequence[str], session_labels: Sequence[str]
) -> list[str]:
    """Labels to process, all where none is given; ConfigurationError names the unknown ones."""
    if not bids_dir.is_dir():
        raise ConfigurationError(f"bids_dir {bids_dir} is no folder; expected a BIDS dataset")
    try:
        known = list_participants(bids_dir)
    except InputError as error:
        raise ConfigurationError(f"bids_dir: {error}") from error
    if not known:
        raise ConfigurationError(f"bids_dir {bids_dir} holds no sub-* folder; expected a BIDS dataset")
    _refuse_unknown("participant", participant_labels, known)
    selected = list(participant_labels) or known
    sessions = _sessions_of(bids_dir, selected) if session_labels else None
    if sessions is not None:
        _refuse_unknown("session", session_labels, sessions)
    return selected


def _sessions_of(bids_dir: Path, participants: Sequence[str]) -> list[str] | None:
    """Labels of their sessions; None where a participant cannot be read and may have others."""
    try:
        return sorted({s for label in participants for s in list_sessions(bids_dir, label)})
    except InputError:
        return None


def _refuse_unknown(kind: str, asked: Sequence[str], known: Sequence[str]) -> None:
    unknown = [label for label in asked if label not in known]
    if unknown:
        listed = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
        raise ConfigurationError(
            f"unknown {kind} label{'s' if len(unknown) > 1 else ''}: {', '.join(unknown)}; "
            f"the dataset has {listed or 'none'}"
        )
