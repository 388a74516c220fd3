"""Isotropic scans as a BIDS dataset, for atlasgs-study.

    python benchmarks/arrange.py --scans DIR BIDS_DIR

DIR/stroke holds T1.nii.gz, T2.nii.gz and FLAIR.nii.gz: brain-extracted, isotropic, on one grid. They become
sub-stroke with a T1w, a T2w and a FLAIR; the brain mask among the derivatives is where the T1 is above 0.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

SCAN_OF_SUFFIX = {"T1w": "T1", "FLAIR": "FLAIR", "T2w": "T2"}
PARTICIPANT = "sub-stroke"


def main() -> int:
    parser = argparse.ArgumentParser(description="Isotropic scans as a BIDS dataset.")
    parser.add_argument("--scans", type=Path, required=True, help="folder with stroke/{T1,T2,FLAIR}.nii.gz")
    parser.add_argument("bids_dir", type=Path, help="new folder")
    options = parser.parse_args()
    scans = options.scans / "stroke"
    missing = [name for name in SCAN_OF_SUFFIX.values() if not (scans / f"{name}.nii.gz").exists()]
    if missing:
        print(f"skipped: {scans} has no {', '.join(missing)}; give the scans' folder with --scans")
        return 0
    arrange(scans, options.bids_dir)
    return 0


def arrange(scans: Path, bids_dir: Path) -> None:
    """Write the dataset; an existing folder is an error."""
    anat = bids_dir / PARTICIPANT / "anat"
    anat.mkdir(parents=True)
    description = {"Name": "Isotropic scans", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    _write_json(bids_dir / "dataset_description.json", description)
    (bids_dir / "README.md").write_text("# Isotropic scans of one brain\n", encoding="utf-8")
    for suffix, name in SCAN_OF_SUFFIX.items():
        shutil.copyfile(scans / f"{name}.nii.gz", anat / f"{PARTICIPANT}_{suffix}.nii.gz")
        _write_json(anat / f"{PARTICIPANT}_{suffix}.json", {"SkullStripped": True})

    derivative = bids_dir / "derivatives" / "brain"
    masks = derivative / PARTICIPANT / "anat"
    masks.mkdir(parents=True)
    generated = {"GeneratedBy": [{"Name": "benchmarks/arrange.py"}], "DatasetType": "derivative"}
    _write_json(derivative / "dataset_description.json", {**description, **generated})
    t1 = nib.Nifti1Image.from_filename(scans / "T1.nii.gz")
    brain = (np.asarray(t1.dataobj) > 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(brain, t1.affine), masks / f"{PARTICIPANT}_desc-brain_mask.nii.gz")
    _write_json(masks / f"{PARTICIPANT}_desc-brain_mask.json", {"Type": "Brain"})


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
