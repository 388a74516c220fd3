"""From the table of metrics that marks a finished target to whose it is, and what lies beside it."""

from pathlib import Path

from atlasgs_bids.bids.entities import parse_entities

_OF_RESULTS = ("space", "res", "desc", "modality", "extension", "datatype")
"""Entities that a result has beyond those of its target."""


def result_sidecar(metrics: Path) -> Path:
    """The sidecar of the result beside its metrics: whatever resolution it has.

    >>> result_sidecar(Path("sub-01_mod-FLAIR_space-T1w_res-iso_desc-sr_metrics.tsv")).name
    'sub-01_space-T1w_res-iso_desc-sr_FLAIR.json'
    """
    suffix = parse_entities(metrics)["modality"]
    return metrics.with_name(
        metrics.name.replace(f"_mod-{suffix}", "").replace("_metrics.tsv", f"_{suffix}.json")
    )


def restored_entities(metrics: Path) -> dict[str, str]:
    """Entities of the target that a table of metrics is about."""
    found = parse_entities(metrics)
    own = {name: value for name, value in found.items() if name not in _OF_RESULTS}
    return own | {"suffix": found["modality"], "datatype": found["datatype"]}
