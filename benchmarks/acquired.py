"""Scans as a scanner wrote them, restored from their headers alone: no truth, so look at the figures.

    python benchmarks/acquired.py --scans DIR [-- further options of atlasgs]

DIR/chris holds chris_t1.nii.gz (0.9 mm, whole head), chris_PD.nii.gz (2.4 mm slices, the vertex cut off, 9°
away) and pcasl.nii.gz (20 slices of 6 mm, label and control in turn), of one adult. They become one
participant of a BIDS dataset; the app registers and restores both targets. Printed: the app's own metrics,
errors of the BIDS validator in the results, and the figures.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
from rich.console import Console
from rich.table import Table

LABELLING = {
    # What the files do not tell: BIDS wants a value, and AtlasGS uses none of these.
    "ArterialSpinLabelingType": "PCASL",
    "PostLabelingDelay": 1.8,
    "LabelingDuration": 1.8,
    "BackgroundSuppression": False,
    "M0Type": "Absent",
    "TotalAcquiredPairs": 5,
    "RepetitionTimePreparation": 4.0,
    "EchoTime": 0.012,
    "FlipAngle": 90,
    "MagneticFieldStrength": 3,
    "MRAcquisitionType": "2D",
}
FILES = {"T1w": "chris_t1", "PDw": "chris_PD", "asl": "pcasl"}
FOLDERS = {"T1w": "anat", "PDw": "anat", "asl": "perf"}
SHOWN = (
    "registration_rotation", "registration_displacement", "fov_coverage", "consistency_to_noise",
    "edge_agreement_before", "edge_agreement_after", "sharpness_before", "sharpness_after",
    "difference_to_noise", "n_gaussians", "seconds_scaffold", "seconds_registration", "seconds_appearance",
    "seconds_render", "peak_memory",
)  # fmt: skip
STEM = "sub-chris"


def main() -> int:
    parser = argparse.ArgumentParser(description="Restore acquired scans from their headers alone.")
    parser.add_argument("--scans", type=Path, required=True, help="folder with chris/*.nii.gz")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/acquired"))
    parser.add_argument("further", nargs="*", metavar="-- OPTION", help="further options of atlasgs")
    options = parser.parse_args()
    scans = {suffix: options.scans / "chris" / f"{name}.nii.gz" for suffix, name in FILES.items()}
    missing = [path for path in scans.values() if not path.exists()]
    if missing:
        print(f"skipped: {missing[0]} is absent; give the scans' folder with --scans")
        return 0
    bids_dir, out_dir = options.out / "bids", options.out / "atlasgs"
    for folder in (bids_dir, out_dir):
        shutil.rmtree(folder, ignore_errors=True)
    arrange_dataset(scans, bids_dir)

    started_s = time.monotonic()
    command = [sys.executable, "-m", "atlasgs_bids", bids_dir, out_dir, "participant", *options.further]
    exit_code = subprocess.run(command, check=False).returncode
    if exit_code != 0:
        return exit_code
    print(f"{time.monotonic() - started_s:.0f} s from start to end")
    print_metrics(out_dir)
    n_errors = print_validation(out_dir)
    for figure in sorted(out_dir.glob("sub-*/figures/*.png")):
        print(figure)
    return 0 if n_errors == 0 else 1


def arrange_dataset(scans: dict[str, Path], bids_dir: Path) -> None:
    """One participant; nothing about slices in the sidecars."""
    bids_dir.mkdir(parents=True)
    description = {"Name": "Acquired scans", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    write_json(bids_dir / "dataset_description.json", description)
    (bids_dir / "README.md").write_text("# Acquired scans\n", encoding="utf-8")
    for suffix, scan in scans.items():
        folder = bids_dir / STEM / FOLDERS[suffix]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(scan, folder / f"{STEM}_{suffix}.nii.gz")
        write_json(folder / f"{STEM}_{suffix}.json", LABELLING if suffix == "asl" else {})
    n_volumes = nib.Nifti1Image.from_filename(scans["asl"]).shape[3]
    # The first volume is a label: labelling lowers the signal, and the even volumes have less of it.
    rows = ["volume_type", *(("label", "control")[index % 2] for index in range(n_volumes))]
    (bids_dir / STEM / "perf" / f"{STEM}_aslcontext.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def print_metrics(out_dir: Path) -> None:
    tables = sorted(out_dir.glob("sub-*/*/*_desc-sr_metrics.tsv"))
    shown = Table(title="without a truth: explained in the JSON file beside each table")
    shown.add_column("")
    rows = []
    for path in tables:
        shown.add_column(path.name.split("mod-")[1].split("_")[0], justify="right")
        with path.open(encoding="utf-8") as file:
            rows.append(next(csv.DictReader(file, delimiter="\t")))
    for name in SHOWN:
        shown.add_row(name, *(row.get(name, "n/a") for row in rows))
    Console(width=110).print(shown)


def print_validation(out_dir: Path) -> int:
    """Errors that the BIDS validator finds in the results; 0 where it is not installed."""
    validator = Path(sys.executable).parent / "bids-validator-deno"
    if not validator.exists():
        print(f"not validated: {validator.name} is absent; pip install bids-validator-deno")
        return 0
    finished = subprocess.run(
        [validator, "--format", "json", out_dir], capture_output=True, text=True, check=False
    )
    issues = json.loads(finished.stdout)["issues"]["issues"]
    errors = [issue for issue in issues if issue["severity"] == "error"]
    print(f"BIDS validator: {len(errors)} errors")
    for issue in errors:
        print(f"  {issue['code']} {issue.get('location', '')}")
    return len(errors)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
