"""What became of every target in a folder of results: from names and small files, quick for thousands.

Loads neither torch nor nibabel nor pybids.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from atlasgs_bids.app.planned import Planned, read_plans
from atlasgs_bids.bids.entities import image_label, parse_entities, session_label
from atlasgs_bids.bids.outputs.dataset import check_out_dir
from atlasgs_bids.bids.outputs.locks import lock_holder
from atlasgs_bids.bids.outputs.names import session_page
from atlasgs_bids.bids.outputs.results import restored_entities, result_sidecar
from atlasgs_bids.errors import ConfigurationError, InputError
from atlasgs_bids.runtime.files import load_json, load_text, names_in

STATES = ("done", "failed", "running", "missing")
_NOT_PLANNED = "in the dataset, but no run has planned it yet"
_NOT_BEGUN = "planned; not begun, or interrupted"


@dataclass(frozen=True)
class Outcome:
    """What became of one target, or of a session or participant that has come to no target."""

    participant: str
    session: str | None
    label: str
    """``sub-01 ses-a FLAIR``, ``sub-01``."""
    state: str
    """One of STATES."""
    said: str = ""
    """Why it failed or is missing, who works on it."""
    details: str | None = None
    """The crash file, relative to the derivative dataset."""


@dataclass(frozen=True)
class Variant:
    """Results of one kind that were made alike, where others were made otherwise."""

    kind: str
    """``FLAIR res-iso``."""
    settings: Mapping[str, Any]
    """Those in which the variants of this kind differ; ``version`` is that of AtlasGS."""
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Status:
    counts: Mapping[str, int]
    """State -> number of outcomes."""
    n_participants: int
    dataset: str | None
    """Whose participants were expected; None: it is not known here, so nobody can be missed."""
    outcomes: tuple[Outcome, ...]
    variants: tuple[Variant, ...]
    """Empty where all results of a kind were made alike."""

    @property
    def all_done(self) -> bool:
        return self.counts["done"] == len(self.outcomes)


class _Crash(NamedTuple):
    written_s: float
    message: str
    path: str


def status_of(out_dir: Path, bids_dir: Path | None, participants: Collection[str]) -> Status:
    """Every target of these participants (all where none is given); ConfigurationError for wrong folders.

    ``bids_dir`` None: the dataset that the results name as theirs, where it is here.
    """
    check_out_dir(out_dir)
    if not (out_dir / "dataset_description.json").exists():
        raise ConfigurationError(
            f"found no dataset_description.json in {out_dir}, expected AtlasGS results; name their folder"
        )
    bids_dir = bids_dir or _raw_dataset(out_dir)
    expected = _participants(bids_dir) if bids_dir else []
    plans, metrics, crashes = read_plans(out_dir), _metrics(out_dir), _crashes(out_dir)
    found = [outcome for plan in plans for outcome in _of_plan(plan, metrics, crashes, out_dir)]
    found += _unplanned_results(plans, metrics)
    known = {outcome.participant for outcome in found} | {plan.participant for plan in plans}
    found += [
        Outcome(label, None, f"sub-{label}", "missing", _NOT_PLANNED)
        for label in expected
        if label not in known
    ]
    unknown = sorted(set(participants) - known - set(expected))
    if unknown:
        raise ConfigurationError(
            f"unknown participant label: {', '.join(unknown)}; neither dataset nor results have it"
        )
    asked = set(participants or known | set(expected))
    found = [outcome for outcome in found if outcome.participant in asked]
    counts = Counter(outcome.state for outcome in found)
    return Status(
        {state: counts[state] for state in STATES},
        len(asked),
        str(bids_dir) if bids_dir else None,
        tuple(sorted(found, key=lambda outcome: outcome.label)),
        tuple(_variants([path for path in metrics.values() if parse_entities(path)["subject"] in asked])),
    )


def _raw_dataset(out_dir: Path) -> Path | None:
    links = load_json(out_dir / "dataset_description.json").get("DatasetLinks")
    raw = links.get("raw") if isinstance(links, dict) else None
    if not isinstance(raw, str):
        return None
    path = (out_dir / unquote(urlsplit(raw).path)).resolve()
    return path if path.is_dir() else None


def _participants(bids_dir: Path) -> list[str]:
    try:
        names = names_in(bids_dir)
    except InputError as error:
        raise ConfigurationError(str(error)) from error
    labels = [name[4:] for name in names if re.fullmatch(r"sub-[0-9a-zA-Z+]+", name)]
    return [label for label in labels if (bids_dir / f"sub-{label}").is_dir()]


def _metrics(out_dir: Path) -> dict[str, Path]:
    """Every finished target's metrics, by their path in the derivative dataset."""
    patterns = (f"sub-*/{session}{kind}" for session in ("", "ses-*/") for kind in ("anat", "dwi", "perf"))
    folders = [folder for pattern in patterns for folder in out_dir.glob(pattern)]
    paths = [path for folder in folders for path in folder.glob("sub-*_mod-*_desc-sr_metrics.tsv")]
    return {path.relative_to(out_dir).as_posix(): path for path in sorted(paths)}


def _crashes(out_dir: Path) -> dict[str, _Crash]:
    """The latest failure of each label."""
    found = {}
    for path in sorted((out_dir / "logs").glob("crash-*.txt")):
        try:
            label, message, *_ = [*load_text(path).split("\n", 2), ""]
            found[label] = _Crash(path.stat().st_mtime, message, f"logs/{path.name}")
        except OSError:
            continue
    return found


def _of_plan(
    plan: Planned, metrics: Collection[str], crashes: Mapping[str, _Crash], out_dir: Path
) -> Iterator[Outcome]:
    def outcome(label: str, state: str, said: str = "", details: str | None = None) -> Outcome:
        return Outcome(plan.participant, plan.session, label, state, said, details)

    def latest(*labels: str) -> _Crash | None:
        """Since the plan was last changed: what failed before that may be mended."""
        found = [crashes[label] for label in labels if label in crashes]
        return max((crash for crash in found if crash.written_s >= plan.written_s), default=None)

    undone = [label for label, path in plan.targets.items() if path not in metrics]
    holder = lock_holder(out_dir, plan.participant, plan.session) if undone else None
    for target in plan.targets:
        label = f"{plan.label} {target}"
        crash = latest(label, plan.label, f"sub-{plan.participant}")
        if target not in undone:
            yield outcome(label, "done")
        elif holder is not None:
            yield outcome(label, "running", holder)
        elif crash is not None:
            yield outcome(label, "failed", crash.message, crash.path)
        else:
            yield outcome(label, "missing", _NOT_BEGUN)
    for label, message in plan.failures.items():
        yield outcome(label, "failed", message, crashes[label].path if label in crashes else None)
    no_page = latest(f"{plan.label} page")
    if no_page is not None and not session_page(out_dir, plan.participant, plan.session).exists():
        yield outcome(f"{plan.label} page", "failed", no_page.message, no_page.path)


def _unplanned_results(plans: Sequence[Planned], metrics: Mapping[str, Path]) -> Iterator[Outcome]:
    """Results of earlier runs that the last one no longer plans, or of versions that kept no plans."""
    planned = {path for plan in plans for path in plan.targets.values()}
    for relative, path in metrics.items():
        if relative not in planned:
            own = restored_entities(path)
            participant, session = own["subject"], own.get("session")
            label = f"{session_label(participant, session)} {image_label(own)}"
            yield Outcome(participant, session, label, "done")


def _variants(metrics: Sequence[Path]) -> list[Variant]:
    """Results of each kind by the settings that their sidecars say, where these differ."""
    groups: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in metrics:
        own, settings = restored_entities(path), load_json(result_sidecar(path)).get("Settings")
        kind = f"{own['suffix']} res-{parse_entities(path).get('res')}"
        label = f"{session_label(own['subject'], own.get('session'))} {image_label(own)}"
        groups[kind][json.dumps(settings if isinstance(settings, dict) else {}, sort_keys=True)].append(label)
    variants = []
    for kind, labels_by_settings in sorted(groups.items()):
        all_settings = [json.loads(text) for text in labels_by_settings]
        names = dict.fromkeys(name for settings in all_settings for name in settings)
        differing = [n for n in names if len({json.dumps(s.get(n, "not said")) for s in all_settings}) > 1]
        for settings, labels in zip(all_settings, labels_by_settings.values(), strict=True):
            if len(all_settings) > 1:
                shown = {name: settings.get(name, "not said") for name in differing}
                variants.append(Variant(kind, shown, tuple(labels)))
    return sorted(variants, key=lambda variant: (variant.kind, -len(variant.labels)))
