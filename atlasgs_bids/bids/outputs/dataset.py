"""The files at the root of the derivative dataset."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlasgs_bids.bids.entities import RESTORED_SUFFIXES
from atlasgs_bids.errors import ConfigurationError
from atlasgs_bids.runtime.files import load_json, save_json, save_text

PIPELINE = "AtlasGS"
BIDS_VERSION = "1.10.0"

DESCRIPTIONS = {
    "anchor": "The image of the same head whose space and resolution the results have",
    "sr": "Image restored at the output resolution from the acquired thick slices",
    "simulated": "What the restored image predicts for the acquired slices, on their grid",
    "residual": "Acquired minus simulated slices, on their grid",
    **{
        f"{suffix}fov": f"Where the field of view of the acquired {suffix} covers the output grid"
        for suffix in RESTORED_SUFFIXES
    },
    "srstd": "Standard deviation of the error of the restored image, or of each kind of a series' volumes",
    "srnoisestd": "The part of it that the noise of one volume's slices makes",
    **{
        f"{suffix}trusted": f"Where the restored {suffix} is expected to err by less than half its contrast"
        for suffix in RESTORED_SUFFIXES
    },
    **{
        f"{suffix}flags": f"Where the slices of the {suffix} contradict the anchor, or lie elsewhere"
        for suffix in RESTORED_SUFFIXES
    },
    "atlasgs": "The Gaussians that were fitted to the anchor",
    "deformable": "Position with a displacement, along the phase-encoding axis or as another pipeline has it",
    "motion": "Where the head was during each slice, relative to its stack",
    "confounds": "Where the head was during each volume of a series, and slices that lost their signal",
    "longitudinal": "How well the scaffold of one session explains the anchor of another",
}
"""Every value of ``desc-`` that the app writes."""

BIDSIGNORE = (
    "*.html",
    "figures",
    "*_xfm.*",
    "*_scaffold.*",
    "*_metrics.*",
    "*_timeseries.*",
    "group_*",
    "*_dwi.bval",
    "*_dwi.bvec",
    "*_aslcontext.tsv",
    # The schema knows masks and labels of anat, func and dwi, none of perf.
    "*_desc-aslfov_mask.*",
    "*_desc-m0scanfov_mask.*",
    "*_desc-m0scantrusted_mask.*",
    "*_desc-m0scanflags_dseg.*",
    ".tmp-*",
    "logs",
    "*_rating.json",
)

_README = """# AtlasGS results

Every FLAIR, T2w, PDw, diffusion and ASL image with thick slices, restored at isotropic resolution in the
space of the same participant's T1w image (or of the UNIT1, T2w or FLAIR that names call the space after),
from this participant's own scans alone.

- `*_space-*_res-*_desc-sr_*.nii.gz`: the result, in the intensity units of the acquired image
- `*_desc-simulated_*.nii.gz`, `*_desc-residual_*.nii.gz`: predicted slices and acquired minus predicted,
  on the acquired grid: what the result does not explain
- `*_desc-*fov_mask.nii.gz`: where the acquired slices cover the result; outside it the image is 0
- `*_desc-srstd_*.nii.gz`: standard deviation of the result's error, where held-out slices say that it errs;
  of a series, that of one volume of each kind (its sidecar says which), and `desc-srnoisestd` its noise
- `*_desc-*trusted_mask.nii.gz`: where the error is below half the local contrast; its sidecar says how sure
- `*_desc-*flags_dseg.nii.gz`: where the slices contradict the anchor (1), or lie elsewhere than it says (2)
- `*_from-*_to-*_mode-image_xfm.txt`: rigid registration, ITK text
- `*_mode-image_desc-deformable_xfm.nii.gz`: the same with displacement, ITK fields in both directions
- `*_desc-sr_metrics.tsv`: quality measures without a reference; `group_*.tsv` gathers them
- `*_desc-anchor_*.nii.gz`, `*_desc-atlasgs_scaffold.*`: the anchor that was used and its Gaussians
- `sub-*.html`: a page for each session, to look at before its results are used; `group.html`: everybody
- `sub-*/figures/`: anchor, acquired and result in three planes
- `logs/`: one file per failure; `logs/CITATION.*`: what was done, as a text to copy

`descriptions.tsv` explains the `desc-` labels; `.bidsignore` lists the outputs that BIDS has no name for yet.
"""


def write_dataset_files(
    out_dir: Path, bids_dir: Path, version: str, derivatives: Mapping[str, Path] | None = None
) -> None:
    """Write dataset_description.json, README.md, descriptions.tsv and .bidsignore where they differ.

    Raises ConfigurationError where out_dir already holds another dataset or cannot be written to.
    """
    check_out_dir(out_dir)
    try:
        description = dataset_description(out_dir, bids_dir, version, derivatives or {})
        if load_json(out_dir / "dataset_description.json") != description:
            save_json(description, out_dir / "dataset_description.json")
        if not (out_dir / "README.md").exists():
            save_text(_README, out_dir / "README.md")
        save_where_it_differs("\n".join(BIDSIGNORE) + "\n", out_dir / ".bidsignore")
        rows = [f"desc-{label}\t{text}\n" for label, text in DESCRIPTIONS.items()]
        save_where_it_differs("desc_id\tdescription\n" + "".join(rows), out_dir / "descriptions.tsv")
    except OSError as error:
        raise ConfigurationError(
            f"out_dir {out_dir} cannot be written to ({error.strerror}); choose a folder that can"
        ) from error


def save_where_it_differs(text: str, path: Path) -> None:
    """Runs that share out_dir then leave each other's files alone."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        save_text(text, path)


def check_out_dir(out_dir: Path) -> None:
    """Raise ConfigurationError where out_dir holds a dataset that is not AtlasGS's."""
    path = out_dir / "dataset_description.json"
    if not path.exists():
        return
    generators = load_json(path).get("GeneratedBy") or [{}]
    name = generators[0].get("Name") if isinstance(generators, list) else None
    if name != PIPELINE:
        raise ConfigurationError(
            f"out_dir {out_dir} holds another dataset ({name or 'no GeneratedBy'} in its "
            "dataset_description.json), expected a new folder or AtlasGS results; choose another one"
        )


def dataset_description(
    out_dir: Path, bids_dir: Path, version: str, derivatives: Mapping[str, Path] | None = None
) -> dict[str, Any]:
    """Content of the derivative's dataset_description.json."""
    raw = load_json(bids_dir / "dataset_description.json")
    source = {
        "URL": _link(out_dir, bids_dir),
        "Version": raw.get("DatasetVersion"),
        "DOI": raw.get("DatasetDOI"),
    }
    return {
        "Name": f"{PIPELINE} results" + (f" of {raw['Name']}" if raw.get("Name") else ""),
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": PIPELINE, "Version": version}],
        "SourceDatasets": [{name: value for name, value in source.items() if value}],
        "DatasetLinks": {"raw": _link(out_dir, bids_dir), **_links(out_dir, derivatives or {})},
        **({"License": raw["License"]} if raw.get("License") else {}),
    }


def _links(out_dir: Path, derivatives: Mapping[str, Path]) -> dict[str, str]:
    return {name: _link(out_dir, folder) for name, folder in derivatives.items()}


def _link(out_dir: Path, bids_dir: Path) -> str:
    """Relative where the results lie in the dataset: the two then move together."""
    out_dir, bids_dir = out_dir.resolve(), bids_dir.resolve()
    if out_dir.is_relative_to(bids_dir):
        return Path(os.path.relpath(bids_dir, out_dir)).as_posix() + "/"
    return bids_dir.as_uri()


def check_paths(bids_dir: Path, out_dir: Path, others: Mapping[str, Path | None]) -> None:
    """Raise ConfigurationError where a run would write into the dataset that it reads.

    ``others``: further folders that it writes to, by what messages call them.
    """
    stated, bids_dir, out_dir = out_dir, bids_dir.resolve(), out_dir.resolve()
    derivatives = bids_dir / "derivatives"
    if out_dir.is_relative_to(bids_dir) and derivatives not in out_dir.parents:
        raise ConfigurationError(
            f"out_dir {stated} lies inside bids_dir, which is only ever read; "
            f"choose a folder outside it or {derivatives / 'atlasgs'}"
        )
    for name, folder in others.items():
        if folder is not None and folder.resolve().is_relative_to(bids_dir):
            raise ConfigurationError(
                f"{name} {folder} lies inside bids_dir, which is only ever read; choose one outside it"
            )
