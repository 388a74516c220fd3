"""The same images from Python, as paths and as nibabel images, and from the command line: are they one?

    python benchmarks/python_door.py T1W TARGET [--device cuda] [--thickness MM]

Exit code 1 where the largest difference is more than rounding: 1e-4 of the image's 99th percentile.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

import atlasgs_bids as ag

ROUNDING = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description="Python beside the command line.")
    parser.add_argument("t1w", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--thickness", type=float)
    parser.add_argument("options", nargs="*", help="further options of the command, after --")
    arguments = parser.parse_args()
    settings = ag.Settings(device=arguments.device)
    images: dict[str, nib.Nifti1Image] = {}
    for name, form in (("paths", Path), ("nibabel", nib.Nifti1Image.from_filename)):
        started_s = time.perf_counter()
        found = ag.restore(
            form(arguments.t1w), form(arguments.target), thickness_mm=arguments.thickness, settings=settings
        )
        assert isinstance(found, ag.Result)
        images[name] = found.image
        print(f"{name}: {found.image.shape} in {time.perf_counter() - started_s:.0f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="atlasgs-door-") as folder:
        images["command line"] = _by_command(Path(folder), arguments)
        apart = {name: _apart(image, images["paths"]) for name, image in images.items()}
    print(json.dumps({"largest difference over the 99th percentile": apart}))
    return int(max(apart.values()) > ROUNDING)


def _by_command(folder: Path, arguments: argparse.Namespace) -> nib.Nifti1Image:
    anat = folder / "bids" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    (folder / "bids" / "dataset_description.json").write_text('{"Name": "door", "BIDSVersion": "1.10.0"}')
    shutil.copy(arguments.t1w, anat / "sub-01_T1w.nii.gz")
    shutil.copy(arguments.target, anat / "sub-01_PDw.nii.gz")
    thickness = ["--slice-thickness", str(arguments.thickness)] if arguments.thickness else []
    command = [sys.executable, "-m", "atlasgs_bids", str(folder / "bids"), str(folder / "out"), "participant"]
    command += ["--device", arguments.device, "--skip-bids-validation", *thickness, *arguments.options]
    subprocess.run(command, check=True)
    path = folder / "out" / "sub-01" / "anat" / "sub-01_space-T1w_res-iso_desc-sr_PDw.nii.gz"
    image = nib.load(path)
    assert isinstance(image, nib.Nifti1Image)
    return nib.Nifti1Image(np.asarray(image.dataobj), image.affine)


def _apart(image: nib.Nifti1Image, other: nib.Nifti1Image) -> float:
    a, b = (np.asarray(each.dataobj, dtype=np.float64) for each in (image, other))
    return float(np.abs(a - b).max() / np.percentile(np.abs(b), 99))


if __name__ == "__main__":
    sys.exit(main())
