"""``--export raw``: results as a dataset that looks raw, for tools that take no other (decision 30)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from atlasgs_bids.bids.entities import DERIVATIVE_ENTITIES, parse_entities
from atlasgs_bids.bids.outputs.dataset import PIPELINE, dataset_description, save_where_it_differs
from atlasgs_bids.bids.outputs.locks import dataset_lock
from atlasgs_bids.bids.outputs.names import derivative_path
from atlasgs_bids.runtime.files import load_json, load_tsv, save_json, save_tsv

RECONSTRUCTION = "atlasgs"
"""``rec-`` of a restored image; appended to the one that its source has."""
FILTER_FILE = "bids_filter.json"

_BIDSIGNORE = f"{FILTER_FILE}\n.tmp-*\n"

_README = f"""# {PIPELINE} results, as raw images

Images that were acquired with thick slices and restored at isotropic resolution, beside the image that guided
them (the anchor, a T1w mostly). They are derivatives. They have names of raw images because some tools take
no others; every sidecar says `ProcessedBy`, and names its sources.

- `*_rec-*{RECONSTRUCTION}_*.nii.gz`: restored, on the grid of the results, not negative
- without `rec-*atlasgs`, a `T1w` mostly: a copy of the anchor, which the others are aligned with
- `{FILTER_FILE}`: for `--bids-filter-file` of fMRIPrep, sMRIPrep and their relatives

The acquired thick slices are left out, so that nothing merges them with what was made of them.

Between its slices a restored image follows the anchor where the slices do not say otherwise: a pial surface
that is refined with it is in part refined with the T1w once more.
"""


def raw_dir(out_dir: Path) -> Path:
    """Root of the dataset that looks raw.

    Inside of out_dir, which may be the only folder that a container can write to; below ``derivatives``,
    which neither pybids nor the BIDS validator takes for a part of the results.
    """
    return out_dir / "derivatives" / "raw"


def raw_target_path(root: Path, entities: Mapping[str, str]) -> Path:
    """Path of a restored image.

    >>> source = {"subject": "01", "suffix": "FLAIR", "datatype": "anat", "acquisition": "axial"}
    >>> raw_target_path(Path("raw"), source).as_posix()
    'raw/sub-01/anat/sub-01_acq-axial_rec-atlasgs_FLAIR.nii.gz'
    >>> raw_target_path(Path("raw"), {**source, "reconstruction": "norm"}).name
    'sub-01_acq-axial_rec-normatlasgs_FLAIR.nii.gz'
    """
    reconstruction = entities.get("reconstruction", "") + RECONSTRUCTION
    return derivative_path(root, entities, entities["suffix"], ".nii.gz", reconstruction=reconstruction)


def raw_anchor_path(root: Path, source: Path) -> Path:
    """Path of the copy of an anchor, which keeps its name; what another pipeline made says so in ``rec-``.

    >>> raw_anchor_path(Path("raw"), Path("sub-01/anat/sub-01_run-1_T1w.nii")).as_posix()
    'raw/sub-01/anat/sub-01_run-1_T1w.nii'
    >>> raw_anchor_path(Path("raw"), Path("sub-01/anat/sub-01_desc-preproc_T1w.nii.gz")).name
    'sub-01_rec-preproc_T1w.nii.gz'
    """
    entities = parse_entities(source)
    reconstruction = (entities.get("reconstruction", "") + entities.get("desc", "")) or None
    own = {name: value for name, value in entities.items() if name not in DERIVATIVE_ENTITIES}
    return derivative_path(root, own, own["suffix"], own["extension"], reconstruction=reconstruction)


def write_raw_dataset_files(
    out_dir: Path,
    bids_dir: Path,
    version: str,
    derivatives: Mapping[str, Path],
    participant: str,
    targets: Sequence[Path],
) -> None:
    """What all participants share, with ``participant`` and the names of its ``targets`` added to it.

    Before those are there: whoever finds them finds these files as well.
    """
    root = raw_dir(out_dir)
    description = dataset_description(root, bids_dir, version, {**derivatives, PIPELINE.lower(): out_dir})
    description |= {"Name": f"{description['Name']}, as raw images", "DatasetType": "raw"}
    with dataset_lock(root):
        save_json(description, root / "dataset_description.json")
        save_where_it_differs(_README, root / "README.md")
        save_where_it_differs(_BIDSIGNORE, root / ".bidsignore")
        _add_to_filter(root / FILTER_FILE, targets)
        _write_participants(root, bids_dir, participant)


def _add_to_filter(path: Path, targets: Sequence[Path]) -> None:
    """The filter picks every ``rec-`` that restored images of the dataset have."""
    known = load_json(path).get("flair", {}).get("reconstruction", [])
    labels = {*known, *(parse_entities(target)["reconstruction"] for target in targets)}
    chosen = {"reconstruction": sorted(labels)}
    save_where_it_differs(json.dumps({"flair": chosen, "t2w": chosen}, indent=2) + "\n", path)


def _write_participants(root: Path, bids_dir: Path, participant: str) -> None:
    """The participants that are there, with what the source dataset says of them."""
    try:
        known = {row.get("participant_id"): row for row in load_tsv(bids_dir / "participants.tsv")}
    except (OSError, ValueError):
        known = {}
    columns = load_json(bids_dir / "participants.json")
    if columns:
        save_json(columns, root / "participants.json")
    labels = {path.name for path in root.glob("sub-*")} | {f"sub-{participant}"}
    rows = [{"participant_id": label, **known.get(label, {})} for label in sorted(labels)]
    save_tsv(rows, root / "participants.tsv")
