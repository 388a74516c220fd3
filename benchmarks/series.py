"""A diffusion series of 2 mm simulated on a real head of 1 mm, restored by the app: time, memory, PSNR.

    python benchmarks/series.py --scans DIR --device cuda [--volumes 60] [-- further options of atlasgs]

DIR/stroke holds T1.nii.gz and T2.nii.gz: brain-extracted, 1 mm, on one grid. T2w stands for b = 0; how far a
voxel's signal falls follows from how bright it is in both (fluid, grey, white), and in white matter from the
angle to fibres that run around the vertical axis. Each volume is averaged over 2 × 2 × 2 voxels and gets
Rician noise. Headers are taken as they are. Cubic is B-spline interpolation of the same volumes.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.imaging.volume import Volume

FACTOR = 2
SHELLS = (0, 1000, 2000)
B0_EVERY = 10
"""One volume of so many is a b0; the others share the two shells."""
NOISE = 0.02
"""Standard deviation, of the b0's 95th percentile."""
STEM = "sub-head"

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Tissue:
    """What the signal of a voxel follows from."""

    b0: Image
    diffusivity: Image
    """Across the fibres, mm²/s."""
    white: Image
    fibre: npt.NDArray[np.float32]
    """(x, y, z, 3) unit vectors, voxel axes."""

    def signal(self, b_value: float, direction: npt.NDArray[np.float64]) -> Image:
        along = np.square(self.fibre @ direction.astype(np.float32))
        fall = b_value * (self.diffusivity + 1.2e-3 * self.white * along)
        return np.asarray(self.b0 * np.exp(-fall), dtype=np.float32)


def main() -> int:
    parser = argparse.ArgumentParser(description="Restore a simulated diffusion series of a real head.")
    parser.add_argument("--scans", type=Path, required=True, help="folder with stroke/{T1,T2}.nii.gz")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:n")
    parser.add_argument("--volumes", type=int, default=60)
    parser.add_argument("--slab", type=int, help="take the middle so many voxels along z alone")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/series"))
    parser.add_argument("further", nargs="*", metavar="-- OPTION", help="further options of atlasgs")
    options = parser.parse_args()
    paths = {name: options.scans / "stroke" / f"{name}.nii.gz" for name in ("T1", "T2")}
    if not all(path.exists() for path in paths.values()):
        print(f"skipped: {options.scans}/stroke has no T1.nii.gz and T2.nii.gz; give the folder with --scans")
        return 0
    bids_dir, out_dir = options.out / "bids", options.out / "atlasgs"
    for folder in (bids_dir, out_dir):
        shutil.rmtree(folder, ignore_errors=True)
    anchor, t2w = (middle_slab(load_volume(path), options.slab) for path in paths.values())
    tissue = tissue_of(anchor, t2w)
    b_values, directions = protocol(options.volumes)
    acquired = acquire(tissue, b_values, directions, anchor)
    write_dataset(bids_dir, anchor, acquired, b_values, directions)

    command = [
        sys.executable, "-m", "atlasgs_bids", str(bids_dir), str(out_dir), "participant",
        "--registration", "header", "--skip-bids-validation", "--device", options.device, *options.further,
    ]  # fmt: skip
    started_s = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        return process.returncode
    wall_s = time.monotonic() - started_s
    n_voxels = " × ".join(str(n) for n in anchor.data.shape)
    print(f"\n{options.volumes} volumes of {FACTOR} mm to {n_voxels} voxels of 1 mm, {options.device}")
    print(
        f"{wall_s:.1f} s from start to end of the process, {usage.ru_maxrss / 2**20:.2f} GiB of host memory"
    )
    print_stages(out_dir)
    print_scores(out_dir, tissue, acquired, b_values, directions, anchor)
    return 0


def middle_slab(volume: Volume, n_slices: int | None) -> Volume:
    """The middle of the volume along z, a multiple of the factor; all of it for None."""
    if n_slices is None:
        return volume
    n_kept = n_slices - n_slices % FACTOR
    first = (volume.data.shape[2] - n_kept) // 2
    world = volume.world_from_voxel.copy()
    world[:3, 3] += first * world[:3, 2]
    return Volume(np.ascontiguousarray(volume.data[:, :, first : first + n_kept]), world)


def tissue_of(anchor: Volume, t2w: Volume) -> Tissue:
    inside = anchor.data > 0
    low, high = np.percentile(t2w.data[inside], [60, 98])
    fluid = np.clip((t2w.data - low) / (high - low), 0, 1)
    low, high = np.percentile(anchor.data[inside], [40, 90])
    white = np.clip((anchor.data - low) / (high - low), 0, 1) * (1 - fluid)
    x, y = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in anchor.data.shape[:2]), indexing="ij")
    radius = np.maximum(np.hypot(x, y), 1e-3)
    around = np.stack([-y / radius, x / radius, np.zeros_like(x)], axis=-1)[:, :, None, :]
    return Tissue(
        b0=t2w.data,
        diffusivity=(0.8e-3 - 0.4e-3 * white + 2.2e-3 * fluid).astype(np.float32),
        white=white.astype(np.float32),
        fibre=np.broadcast_to(around, (*anchor.data.shape, 3)).astype(np.float32),
    )


def protocol(n_volumes: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """b values (n,), s/mm², and directions (n, 3), voxel axes: spread over a half sphere, interleaved."""
    index = np.arange(n_volumes)
    b_values = np.where(index % B0_EVERY == 0, SHELLS[0], np.where(index % 2 == 1, SHELLS[1], SHELLS[2]))
    height, turn = (index + 0.5) / n_volumes, index * np.pi * (3 - 5**0.5)
    across = np.sqrt(1 - height**2)
    directions = np.stack([across * np.cos(turn), across * np.sin(turn), height], axis=1)
    return b_values.astype(np.float64), np.where(b_values[:, None] == 0, 0.0, directions)


def acquire(
    tissue: Tissue,
    b_values: npt.NDArray[np.float64],
    directions: npt.NDArray[np.float64],
    anchor: Volume,
) -> list[Volume]:
    """The volumes in voxels of 2 mm, as integers, which is what scanners write."""
    noise = NOISE * float(np.percentile(tissue.b0[anchor.data > 0], 95))
    world = anchor.world_from_voxel.copy()
    world[:3, 3] += world[:3, :3] @ np.full(3, (FACTOR - 1) / 2)
    world[:3, :3] *= FACTOR
    rng = np.random.default_rng(0)
    volumes = []
    for b_value, direction in zip(b_values, directions, strict=True):
        fine = tissue.signal(b_value, direction)
        x, y, z = (n // FACTOR for n in fine.shape)
        blocks = fine[: x * FACTOR, : y * FACTOR, : z * FACTOR].reshape(x, FACTOR, y, FACTOR, z, FACTOR)
        real, imaginary = rng.normal(0, noise, (2, x, y, z))
        magnitude = np.hypot(blocks.mean(axis=(1, 3, 5)) + real, imaginary)
        volumes.append(Volume(np.rint(8 * magnitude).astype(np.float32) / 8, world))
    return volumes


def write_dataset(
    bids_dir: Path,
    anchor: Volume,
    acquired: list[Volume],
    b_values: npt.NDArray[np.float64],
    directions: npt.NDArray[np.float64],
) -> None:
    for folder in ("anat", "dwi"):
        (bids_dir / STEM / folder).mkdir(parents=True)
    description = {"Name": "Simulated diffusion", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    write_json(bids_dir / "dataset_description.json", description)
    (bids_dir / "README.md").write_text("# Simulated diffusion\n", encoding="utf-8")
    data = np.stack([np.rint(8 * volume.data).astype(np.int16) for volume in acquired], axis=3)
    sidecar = {"SliceThickness": float(FACTOR), "SkullStripped": True}
    for image, world, path, content in (
        (anchor.data, anchor.world_from_voxel, f"anat/{STEM}_T1w", {"SkullStripped": True}),
        (data, acquired[0].world_from_voxel, f"dwi/{STEM}_dwi", sidecar),
    ):
        nifti = nib.Nifti1Image(image, world)
        nifti.set_sform(world, 1)
        nifti.set_qform(world, 1)
        nifti.header.set_xyzt_units("mm", "sec")
        if image.ndim == 4:
            nifti.header.set_slope_inter(1 / 8, 0)
        nib.save(nifti, bids_dir / STEM / f"{path}.nii.gz")
        write_json(bids_dir / STEM / f"{path}.json", content)
    flip = [-1 if np.linalg.det(anchor.world_from_voxel[:3, :3]) > 0 else 1, 1, 1]
    np.savetxt(bids_dir / STEM / "dwi" / f"{STEM}_dwi.bval", b_values[None], fmt="%g")
    np.savetxt(bids_dir / STEM / "dwi" / f"{STEM}_dwi.bvec", (directions * flip).T + 0.0, fmt="%.6f")


def print_stages(out_dir: Path) -> None:
    (table,) = out_dir.glob("sub-*/dwi/*_desc-sr_metrics.tsv")
    with table.open(encoding="utf-8") as file:
        row = next(csv.DictReader(file, delimiter="\t"))
    wanted = ("n_gaussians", "trust", "seconds_", "peak_")
    print(", ".join(f"{name} {value}" for name, value in row.items() if name.startswith(wanted)))


def print_scores(
    out_dir: Path,
    tissue: Tissue,
    acquired: list[Volume],
    b_values: npt.NDArray[np.float64],
    directions: npt.NDArray[np.float64],
    anchor: Volume,
) -> None:
    """PSNR of each shell's volumes, and of their mean, cubic → AtlasGS."""
    (path,) = out_dir.glob("sub-*/dwi/*_desc-sr_dwi.nii.gz")
    restored = np.asarray(nib.Nifti1Image.from_filename(path).dataobj, dtype=np.float32)
    mask = anchor.data > 0
    for b_value in SHELLS:
        indices = np.flatnonzero(b_values == b_value)
        gathered = []
        for index in indices:
            images = (
                tissue.signal(b_value, directions[index]),
                resample(acquired[index], anchor.grid),
                restored[..., index],
            )
            gathered.append([image[mask] for image in images])
        truth, cubic, atlasgs = np.moveaxis(np.array(gathered), 1, 0)
        everywhere = np.ones(truth.shape[1], dtype=bool)

        def psnr_of(
            images: Image, truth: Image = truth, everywhere: Mask = everywhere
        ) -> tuple[float, float]:
            """Mean over the volumes, and of their mean."""
            alone = [psnr_db(*pair, everywhere) for pair in zip(truth, images, strict=True)]
            return float(np.mean(alone)), psnr_db(truth.mean(0), images.mean(0), everywhere)

        pairs = zip(psnr_of(cubic), psnr_of(atlasgs), strict=True)
        one, mean = (f"{before:.2f} → {after:.2f} dB" for before, after in pairs)
        print(f"b = {b_value}: {len(indices)} volumes {one}, their mean {mean}")


def write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
