"""Other people's tools on what AtlasGS writes: what they choose of its export, what they compute from it.

    python benchmarks/consumers.py [--scans DIR] [--out OUT] [--document OUT/consumers.json]

The tools live in an environment of their own, OUT/environment, which benchmarks/consumers-requirements.txt
pins (1 GB, a few minutes; later runs use it again). They need no weights and no network. Two participants,
each restored by the command with ``--export raw``:

- a phantom: a whole head, the demo's brain with a skull and a scalp; T1w of 3 mm, oblique FLAIR, T2w and DWI
  (six directions) in slices of 6 mm, of a head that moved;
- with --scans, DIR/stroke: T1, T2 and FLAIR of 1 mm, brain-extracted, the latter two in slices of 5 mm.

benchmarks/consume.py runs inside that environment: each tool's output is compared with what the same tool
makes of the truth, and an insane one is an AssertionError. OUT/consumers.json holds the rows; ``--document``
writes them into docs/measured and their table into docs/consumers.md.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from atlasgs_bids.bids.outputs.raw import raw_dir
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import load_volume, to_nifti
from atlasgs_bids.study.simulation.degrade import simulate_thick_slices, with_rician_noise

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))

from anatomy import N_WAVES, Affine, Anatomy, Array, make_anatomy
from make_dataset import HEAD_CENTRE_MM, SUBJECTS, acquire, anchor_grid, target_from_anchor

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "consumers-requirements.txt"
VOXEL_MM, FACTOR, NOISE_SD = 3, 2, 12.0
STROKE_FACTOR = 5
SHRUNK_TO = 0.85
"""Of the demo's brain, so that its field of view holds a head."""
SKULL_MM, SCALP_MM = 5.0, 6.0
SCALP = {"T1w": 900.0, "FLAIR": 500.0, "T2w": 450.0, "b0": 150.0, "b1000x": 75.0, "b1000y": 75.0}
B_VALUE = 1000.0
DIRECTIONS = np.array([[1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1]]) / np.sqrt(2)
"""In the head's axes (RAS)."""


def main() -> int:
    options = parse_options()
    if options.document is not None:
        document(options.document)
        return 0
    python = environment(options.out / "environment")
    cases: dict[str, tuple[Callable[[Path], None], Callable[[Path, Path], None]]]
    cases = {"phantom": (make_phantom, phantom_truth)}
    if options.scans is not None:
        stroke_dir = options.scans / "stroke"
        if not (stroke_dir / "T1.nii.gz").exists():
            print(f"skipped: {stroke_dir} has no T1.nii.gz; give the scans' folder with --scans")
            return 0
        cases["stroke"] = (partial(make_stroke, stroke_dir), partial(stroke_truth, stroke_dir))
    rows: list[dict[str, Any]] = []
    for name, (make, truth) in cases.items():
        folder = options.out / name
        shutil.rmtree(folder, ignore_errors=True)
        make(folder / "bids")
        restore(folder, options.device)
        truth(raw_dir(folder / "out") / "sub-01" / "anat" / "sub-01_rec-atlasgs_T2w.nii.gz", folder / "truth")
        rows += [{"dataset": name, **row} for row in consumed(python, folder)]
    path = options.out / "consumers.json"
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run other people's tools on what AtlasGS writes.")
    parser.add_argument("--scans", type=Path, help="folder with stroke/*.nii.gz")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/consumers"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--document", type=Path, metavar="JSON", help="write rows into the documents")
    return parser.parse_args()


def environment(folder: Path) -> Path:
    """Python of the tools' environment, which is made where it is not there or has other requirements."""
    python, stamp = folder / "bin" / "python", folder / "requirements.sha256"
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != digest:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True)
        stamp.write_text(digest, encoding="utf-8")
    return python


def restore(folder: Path, device: str) -> None:
    options = ["--resolution", "1", "--prior", "graph", "--no-uncertainty", "--export", "raw"]
    arguments = [*map(str, (folder / "bids", folder / "out")), "participant", *options, "--device", device]
    subprocess.run([sys.executable, "-m", "atlasgs_bids", *arguments], check=True)


def consumed(python: Path, folder: Path) -> list[dict[str, Any]]:
    """One row for each tool; CalledProcessError where one finds nothing or computes nonsense."""
    ended = subprocess.run([python, HERE / "consume.py", folder], stdout=subprocess.PIPE, check=True)
    rows: list[dict[str, Any]] = json.loads(ended.stdout.splitlines()[-1])
    return rows


def make_phantom(bids_dir: Path) -> None:
    """One participant: a whole head with T1w, FLAIR, T2w and DWI."""
    head, rng = whole_head(), np.random.default_rng(1)
    shape, world_from_anchor = anchor_grid(VOXEL_MM)
    t1w = with_rician_noise(head.sample("T1w", shape, world_from_anchor, np.eye(4)), NOISE_SD, rng)
    start_dataset(bids_dir, "Phantom")
    save(bids_dir, "T1w", t1w, world_from_anchor, {"MagneticFieldStrength": 3, "SkullStripped": False})
    for name, scan in SUBJECTS[0].scans.items():
        slices, affine = acquire(head, name, scan, VOXEL_MM, FACTOR)
        save(bids_dir, name, with_rician_noise(slices, NOISE_SD, rng), affine, thick(VOXEL_MM * FACTOR))
    scan = SUBJECTS[0].series["dwi"]
    acquired = {name: acquire(head, name, scan, VOXEL_MM, FACTOR) for name in ("b0", "b1000x", "b1000y")}
    affine = acquired["b0"][1]
    b0, along, across = (np.maximum(slices, 1) for slices, _ in acquired.values())
    # Fibres run from left to right: the logarithm of the signal is linear in the squared cosine to them.
    volumes = [b0, *(along ** (x**2) * across ** (1 - x**2) for x in DIRECTIONS[:, 0])]
    noisy = np.stack([with_rician_noise(volume, NOISE_SD / 3, rng) for volume in volumes], axis=3)
    path = save(bids_dir, "dwi", noisy, affine, {**thick(VOXEL_MM * FACTOR), "PhaseEncodingDirection": "j",
                                                 "TotalReadoutTime": 0.05})  # fmt: skip
    write_gradients(path, affine, target_from_anchor(scan)[:3, :3])


def whole_head() -> Anatomy:
    """The demo's brain, smaller, in a skull (dark) and a scalp."""
    inner = make_anatomy(SUBJECTS[0].lesion, VOXEL_MM, SUBJECTS[0].seed)
    shape, world_from_voxel = anchor_grid(VOXEL_MM)
    enlarged = np.diag([*np.full(3, 1 / SHRUNK_TO), 1.0])
    enlarged[:3, 3] = HEAD_CENTRE_MM * (1 - 1 / SHRUNK_TO)
    maps = {name: inner.sample(name, shape, world_from_voxel, enlarged) for name in (*SCALP, "brain")}
    outside_mm = VOXEL_MM * ndimage.distance_transform_edt(maps["brain"] < 0.5)
    scalp = (outside_mm > SKULL_MM) & (outside_mm <= SKULL_MM + SCALP_MM)
    for name, brightness in SCALP.items():
        maps[name] = np.where(scalp, np.float32(brightness), maps[name])
    maps["head"] = (outside_mm <= SKULL_MM + SCALP_MM).astype(np.float32)
    still = np.zeros((N_WAVES, 3))
    return Anatomy(
        coefficients={name: ndimage.spline_filter(map_, 3, output=np.float32) for name, map_ in maps.items()},
        template_voxel_from_template=np.linalg.inv(world_from_voxel),
        wave_vectors=still,
        wave_phases=still[:, 0],
        wave_displacements_mm=still,
    )


def phantom_truth(like: Path, folder: Path) -> None:
    """On the export's grid: FLAIR, T2w, brain, head, and the tensor's fractional anisotropy."""
    head, image = whole_head(), nib.Nifti1Image.from_filename(like)
    names = ("FLAIR", "T2w", "brain", "head", "b0", "b1000x", "b1000y")
    x, y, z = image.shape
    maps = {name: head.sample(name, (x, y, z), np.asarray(image.affine), np.eye(4)) for name in names}
    b0 = np.maximum(maps["b0"], 1)
    along, across = (np.log(b0 / np.maximum(maps[name], 1)) for name in ("b1000x", "b1000y"))
    size = np.sqrt(np.maximum(along**2 + 2 * across**2, 1e-6))
    maps["FA"] = np.where(maps["brain"] > 0.5, np.abs(along - across) / size, 0)
    folder.mkdir(parents=True)
    for name in ("FLAIR", "T2w", "brain", "head", "FA"):
        nib.save(to_nifti(maps[name], image.affine), folder / f"{name}.nii.gz")


def make_stroke(stroke_dir: Path, bids_dir: Path) -> None:
    """One participant: T1 as it is, FLAIR and T2 in thick slices."""
    start_dataset(bids_dir, "Stroke")
    anchor = load_volume(stroke_dir / "T1.nii.gz")
    save(bids_dir, "T1w", anchor.data, anchor.world_from_voxel, {"MagneticFieldStrength": 3})
    for suffix, name in (("FLAIR", "FLAIR"), ("T2w", "T2")):
        fine = load_volume(stroke_dir / f"{name}.nii.gz")
        slices, affine = simulate_thick_slices(fine.data, fine.world_from_voxel, 2, STROKE_FACTOR)
        save(bids_dir, suffix, slices, affine, thick(STROKE_FACTOR))


def stroke_truth(stroke_dir: Path, like: Path, folder: Path) -> None:
    grid = load_volume(like).grid
    images = {"FLAIR": "FLAIR", "T2w": "T2", "brain": "T1"}
    found = {key: resample(load_volume(stroke_dir / f"{name}.nii.gz"), grid) for key, name in images.items()}
    found["brain"] = (found["brain"] > 0).astype(np.float32)
    found["head"] = found["brain"]
    folder.mkdir(parents=True)
    for name, data in found.items():
        nib.save(to_nifti(data, grid.world_from_voxel), folder / f"{name}.nii.gz")


def thick(slice_mm: float) -> dict[str, Any]:
    return {"MagneticFieldStrength": 3, "SliceThickness": slice_mm}


def start_dataset(bids_dir: Path, name: str) -> None:
    bids_dir.mkdir(parents=True)
    write_json(bids_dir / "dataset_description.json", {"Name": name, "BIDSVersion": "1.10.0"})
    (bids_dir / "README.md").write_text(f"# {name}\n", encoding="utf-8")


def save(
    bids_dir: Path,
    suffix: str,
    data: npt.NDArray[np.floating],
    world_from_voxel: Affine,
    sidecar: Mapping[str, Any],
) -> Path:
    path = bids_dir / "sub-01" / ("dwi" if suffix == "dwi" else "anat") / f"sub-01_{suffix}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(to_nifti(data, world_from_voxel), path)
    write_json(path.with_name(f"sub-01_{suffix}.json"), sidecar)
    return path


def write_gradients(image: Path, world_from_voxel: Affine, rotation: Array) -> None:
    """bval and bvec in FSL's convention: voxel axes, x flipped where the affine's determinant is positive."""
    axes = world_from_voxel[:3, :3] / np.linalg.norm(world_from_voxel[:3, :3], axis=0)
    flip = [-1 if np.linalg.det(axes) > 0 else 1, 1, 1]
    directions = np.vstack([np.zeros(3), (DIRECTIONS @ rotation.T @ axes) * flip])
    stem = image.name.removesuffix(".nii.gz")
    np.savetxt(image.with_name(f"{stem}.bval"), [[0, *np.full(len(DIRECTIONS), B_VALUE)]], fmt="%g")
    np.savetxt(image.with_name(f"{stem}.bvec"), directions.T, fmt="%.6f")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| consumer | version | command | on | what it chose or computed |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['consumer']} | {row['version']} | `{row['command']}` | {row['dataset']} | {row['result']} |"
        for row in sorted(rows, key=lambda row: (row["order"], row["dataset"]))
    ]
    return "\n".join(lines) + "\n"


def document(path: Path) -> None:
    """Rows into docs/measured, their table in place of the one in docs/consumers.md."""
    docs = HERE.parent / "docs"
    rows = json.loads(path.read_text(encoding="utf-8"))
    (docs / "measured" / "consumers.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    page = docs / "consumers.md"
    kept = [line for line in page.read_text(encoding="utf-8").split("\n") if not line.startswith("|")]
    text = "\n".join(kept).replace("<!-- table -->\n", f"<!-- table -->\n\n{table(rows)}", 1)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
