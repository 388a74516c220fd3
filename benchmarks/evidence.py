"""Everything that the app writes for a fixed input and seed, as hashes: before and after a change.

    python benchmarks/evidence.py record EVIDENCE.json      runs the app on a CPU (minutes on 2 cores)
    python benchmarks/evidence.py compare OLD.json NEW.json exit code 1 where they differ, and what differs

One stack, joined stacks, a DWI and an ASL series, the movement of slices, every geometry, graph and learned.
Time, memory and what names the run (version, command, paths) are left out.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))
from make_dataset import NOISE_SD, SUBJECTS, Scan, acquire, make_dataset

from make_dataset import _add_noise as add_noise  # isort: skip

VOXEL_MM, FACTOR = 4, 3
ALONE = {"flair": {"acquisition": "none"}, "dwi": {"direction": "none"}, "asl": {"direction": "none"}}
"""A filter file that leaves the T2w only."""
RUNS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "graph": (False, ("--prior", "graph")),
    "learned": (True, ("--prior", "learned")),
    "motion": (True, ("--prior", "graph", "--motion", "slice")),
    "offset": (True, ("--prior", "graph", "--geometry", "offset")),
    "joint": (True, ("--prior", "graph", "--geometry", "joint")),
    "own": (True, ("--prior", "graph", "--geometry", "own")),
    "header": (True, ("--prior", "graph", "--registration", "header", "--slice-profile", "gaussian")),
}
"""Whether the run has the T2w alone, and its options."""
VOLATILE = (
    "seconds",
    "peak_memory",
    "peak_gpu_memory",
    "Version",
    "GeneratedBy",
    "SourceDatasets",
    "DatasetLinks",
)


def record(path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="atlasgs-evidence-") as folder:
        root = Path(folder)
        _make_dataset(root / "bids", root / "truth")
        (root / "alone.json").write_text(json.dumps(ALONE), encoding="utf-8")
        found: dict[str, Any] = {}
        for name, (alone, options) in RUNS.items():
            out_dir = root / "out" / name
            command = [sys.executable, "-m", "atlasgs_bids", str(root / "bids"), str(out_dir), "participant"]
            command += ["--device", "cpu", "--omp-nthreads", "2", "--skip-bids-validation", *options]
            command += ["--bids-filter-file", str(root / "alone.json")] if alone else []
            finished = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = [line[9:] for line in finished.stderr.splitlines() if " WARNING " in line]
            found[name] = {"exit code": finished.returncode, "warnings": sorted(lines)}
            found[name] |= {
                file.relative_to(out_dir).as_posix(): _content(file)
                for file in sorted(out_dir.rglob("*"))
                if file.is_file() and "logs" not in file.parts
            }
            print(f"{name}: exit code {finished.returncode}, {len(found[name]) - 2} files", flush=True)
    path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def compare(old_path: Path, new_path: Path) -> int:
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (old_path, new_path))
    n_different = 0
    for run in sorted({*old, *new}):
        before, after = old.get(run, {}), new.get(run, {})
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                n_different += 1
                print(f"{run}/{name}:\n  - {before.get(name)}\n  + {after.get(name)}")
    n_files = sum(len(files) for files in old.values())
    print(f"{n_different} of {n_files} records differ")
    return 1 if n_different else 0


def _make_dataset(bids_dir: Path, truth_dir: Path) -> None:
    """The demo's first subject; its FLAIR in two stacks, axial and sagittal."""
    make_dataset(bids_dir, truth_dir, VOXEL_MM, FACTOR, (SUBJECTS[0],))
    anat = bids_dir / "sub-01" / "anat"
    for extension in (".nii.gz", ".json"):
        (anat / f"sub-01_FLAIR{extension}").rename(anat / f"sub-01_acq-axial_FLAIR{extension}")
    from anatomy import make_anatomy  # noqa: PLC0415 - beside make_dataset

    anatomy = make_anatomy(SUBJECTS[0].lesion, detail_mm=VOXEL_MM, seed=SUBJECTS[0].seed)
    scan: Scan = replace(SUBJECTS[0].scans["FLAIR"], orientation="sagittal", tilt_deg=-4.0)
    slices, affine = acquire(anatomy, "FLAIR", scan, VOXEL_MM, FACTOR)
    noisy = add_noise(slices, NOISE_SD["FLAIR"], np.random.default_rng(7))
    image = nib.Nifti1Image(np.rint(noisy).astype(np.int16), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, anat / "sub-01_acq-sagittal_FLAIR.nii.gz")
    sidecar = json.dumps({"SliceThickness": FACTOR * VOXEL_MM})
    (anat / "sub-01_acq-sagittal_FLAIR.json").write_text(sidecar, encoding="utf-8")


def _content(path: Path) -> Any:
    """What a file says, without what changes from run to run."""
    if path.name.endswith(".nii.gz"):
        image = nib.Nifti1Image.from_filename(path)
        data = np.asarray(image.dataobj)
        header = [image.shape, str(image.get_data_dtype()), np.round(image.affine, 6).tolist()]
        header += [int(image.header["sform_code"]), [round(float(z), 5) for z in image.header.get_zooms()]]
        values = data[np.isfinite(data)].astype(np.float64)
        return [_hash(data), header, f"mean {values.mean():.6g}, sd {values.std():.6g}"]
    if path.suffix == ".npz":
        with np.load(path) as stored:
            return {name: _hash(stored[name]) for name in stored.files if name != "fingerprint"}
    if path.suffix == ".json":
        return _stable(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".tsv":
        header, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        return [
            {name: value for name, value in zip(header, row, strict=True) if not name.startswith(VOLATILE)}
            for row in rows
        ]
    if path.suffix == ".png":
        return "figure"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _stable(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _stable(value) for name, value in content.items() if not name.startswith(VOLATILE)}
    return content


def _hash(data: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()[:16]


def main() -> int:
    parser = argparse.ArgumentParser(description="Hashes of everything that the app writes.")
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("path", type=Path)
    comparing = commands.add_parser("compare")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    arguments = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)
    if arguments.command == "record":
        record(arguments.path)
        return 0
    return compare(arguments.old, arguments.new)


if __name__ == "__main__":
    sys.exit(main())
