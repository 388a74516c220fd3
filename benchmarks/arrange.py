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
import numpy.typing as npt

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
    begin_dataset(bids_dir, "Isotropic scans of one brain")
    for suffix, name in SCAN_OF_SUFFIX.items():
        shutil.copyfile(scans / f"{name}.nii.gz", _image_file(bids_dir, PARTICIPANT, suffix))
    t1 = nib.Nifti1Image.from_filename(scans / "T1.nii.gz")
    add_mask(bids_dir, PARTICIPANT, "desc-brain", np.asarray(t1.dataobj) > 0, t1.affine)


def begin_dataset(bids_dir: Path, name: str) -> None:
    """A raw dataset without participants, and a derivative for their masks in it."""
    bids_dir.mkdir(parents=True)
    description = {"Name": name, "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    _write_json(bids_dir / "dataset_description.json", description)
    (bids_dir / "README.md").write_text(f"# {name}\n", encoding="utf-8")
    generated = {"GeneratedBy": [{"Name": "AtlasGS benchmarks"}], "DatasetType": "derivative"}
    _write_json(bids_dir / "derivatives" / "masks" / "dataset_description.json", {**description, **generated})


def add_image(
    bids_dir: Path, participant: str, suffix: str, data: npt.NDArray[np.floating], affine: npt.NDArray
) -> None:
    """A brain-extracted image, in whole numbers."""
    image = nib.Nifti1Image(np.rint(data).astype(np.int16), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, _image_file(bids_dir, participant, suffix))


def add_mask(
    bids_dir: Path, participant: str, name: str, mask: npt.NDArray[np.bool_], affine: npt.NDArray
) -> None:
    """A mask in the derivative: ``desc-brain``, ``label-lesion``."""
    folder = bids_dir / "derivatives" / "masks" / participant / "anat"
    path = folder / f"{participant}_{name}_mask.nii.gz"
    _write_json(
        folder / f"{participant}_{name}_mask.json", {"Type": "Brain" if "brain" in name else "Lesion"}
    )
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), path)


def _image_file(bids_dir: Path, participant: str, suffix: str) -> Path:
    """Where the image goes, beside its sidecar, which is there."""
    anat = bids_dir / participant / "anat"
    _write_json(anat / f"{participant}_{suffix}.json", {"SkullStripped": True})
    return anat / f"{participant}_{suffix}.nii.gz"


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
