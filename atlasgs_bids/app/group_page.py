"""``group.html``: all participants on one page, from the tables that the group level writes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.bids.entities import image_label, session_label
from atlasgs_bids.bids.outputs.names import session_page, session_rating, target_outputs
from atlasgs_bids.bids.outputs.results import restored_entities, result_sidecar
from atlasgs_bids.report.columns import metrics_dictionary
from atlasgs_bids.report.group_page import GroupContents, GroupImage, Missing, group_html
from atlasgs_bids.report.section import key_of
from atlasgs_bids.runtime.files import load_json, save_text
from atlasgs_bids.version import __version__

GROUP_PAGE = "group.html"
_NO_METRICS = ("participant_id", "session_id")


def write_group_page(
    config: RunConfig, rows: Sequence[tuple[Path, Mapping[str, str]]], participants: Sequence[str]
) -> None:
    """The page of these results, each given by its metrics' file and row, and of who has none."""
    images = tuple(_image(config, path, row) for path, row in rows)
    with_results = {image.participant for image in images}
    group = GroupContents(
        version=__version__,
        written=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        images=images,
        missing=tuple(_missing(config, participants, with_results)),
        dictionary=metrics_dictionary(),
    )
    save_text(group_html(group), config.out_dir / GROUP_PAGE)


def _image(config: RunConfig, metrics: Path, row: Mapping[str, str]) -> GroupImage:
    own = restored_entities(metrics)
    participant, session = own["subject"], own.get("session")
    outputs = target_outputs(config.out_dir, own)
    page, label = session_page(config.out_dir, participant, session), image_label(own)
    sidecar = result_sidecar(metrics)
    stated = load_json(sidecar).get("Warnings")
    thumbnail = outputs.figure.with_name(sidecar.stem.replace("_desc-sr_", "_desc-thumbnail_") + ".jpg")
    return GroupImage(
        kind=own["suffix"],
        participant=session_label(participant, session),
        label=label,
        link=f"{page.name}#{key_of(label)}" if page.exists() else "",
        metrics={name: value for name, value in row.items() if name not in _NO_METRICS},
        warnings=tuple(map(str, stated)) if isinstance(stated, list) else (),
        rating=_rating(page, label),
        thumbnail=thumbnail,
    )


def _rating(page: Path, label: str) -> str:
    """What somebody saved on the page of a session and put beside it."""
    targets = load_json(session_rating(page)).get("targets")
    of_target = targets.get(label) if isinstance(targets, dict) else None
    rating = of_target.get("rating") if isinstance(of_target, dict) else None
    return rating if isinstance(rating, str) else ""


def _missing(config: RunConfig, participants: Sequence[str], with_results: set[str]) -> list[Missing]:
    """Sessions with a page and no results, and participants without either."""
    pages_of: defaultdict[str, list[Path]] = defaultdict(list)
    for page in sorted(config.out_dir.glob("sub-*.html")):
        name, _, session = page.stem.partition("_ses-")
        if not config.session_ids or session in config.session_ids:
            pages_of[name].append(page)
    found, whole = [], {label.split(" ")[0] for label in with_results}
    for name in (f"sub-{participant}" for participant in participants):
        labels = {page.stem.replace("_", " "): page.name for page in pages_of[name]}
        found += [Missing(label, page) for label, page in labels.items() if label not in with_results]
        if name not in whole and not labels:
            found.append(Missing(name))
    return found
