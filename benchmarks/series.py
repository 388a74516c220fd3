"""Diffusion series of a real head in thicker slices, restored by the app: PSNR, tensors, time, memory.

    python benchmarks/series.py --scans DIR --device cuda [--thickness 2 4 6] [--priors graph learned]
    python benchmarks/series.py --scans DIR --acquired       # philips_enh instead of the simulation

Simulated: DIR/stroke holds T1.nii.gz and T2.nii.gz: brain-extracted, 1 mm, on one grid. T2w stands for b = 0;
how far a voxel's signal falls follows from how bright it is in both (fluid, grey, white), and in white matter
from the angle to fibres that run around the vertical axis: known tensors. Each volume is averaged over voxels
of 2 × 2 mm and the thickness and gets Rician noise.

Acquired: DIR/philips_enh is a BIDS dataset whose diffusion series of 2 mm (7 volumes, so its tensors are
noisy) is averaged over 2 or 3 slices, restored, and scored against itself as acquired.

The app has its defaults but for the prior. Cubic is B-spline interpolation of the same volumes, in the
position that the app found. Tensors are fitted by dipy (benchmarks/consumers-requirements.txt) to the
derivative and the bval and bvec beside it. Results join ``--out``/series.json.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from documents import markdown
from tensors import Tensors, errors, fitted, gradients_beside

from atlasgs_bids.bids.inputs.companions import B0_AT_MOST
from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.imaging.registration.itk_files import read_itk_transform
from atlasgs_bids.imaging.volume import Grid, Volume

IN_PLANE = 2
SHELLS = (0, 1000, 2000)
B0_EVERY = 10
"""One volume of so many is a b0; the others share the two shells."""
NOISE = 0.02
"""Standard deviation, of the b0's 95th percentile."""
STEM = "sub-head"
TENSOR_EVERY = 2
"""Tensors are fitted in one voxel of so many along each axis."""

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Vectors = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tissue:
    """What the signal of a voxel follows from."""

    b0: Image
    diffusivity: Image
    """Across the fibres, mm²/s."""
    white: Image
    fibre: npt.NDArray[np.float32]
    """(x, y, z, 3) unit vectors, voxel axes."""

    def signal(self, b_value: float, direction: Vectors) -> Image:
        along = np.square(self.fibre @ direction.astype(np.float32))
        fall = b_value * (self.diffusivity + ANISOTROPY * self.white * along)
        return np.asarray(self.b0 * np.exp(-fall), dtype=np.float32)

    def tensors(self, where: tuple[slice | npt.NDArray[np.intp], ...]) -> Tensors:
        """The known ones: two equal eigenvalues, and one along the fibre."""
        across, along = self.diffusivity[where], (self.diffusivity + ANISOTROPY * self.white)[where]
        fa = (along - across) / np.sqrt(along**2 + 2 * across**2)
        return Tensors(fa, (along + 2 * across) / 3, self.fibre[where])


ANISOTROPY = np.float32(1.2e-3)
"""What white matter's diffusivity along its fibres is above that across, mm²/s."""


def main() -> int:
    options = parse_options()
    wanted = ["philips_enh/sub-philips/dwi"] if options.acquired else ["stroke/T1.nii.gz", "stroke/T2.nii.gz"]
    if missing := [name for name in wanted if not (options.scans / name).exists()]:
        print(f"skipped: {options.scans} has no {', '.join(missing)}; give the scans' folder with --scans")
        return 0
    rows = []
    for thickness in options.thickness:
        case = acquired_case(options, thickness) if options.acquired else simulated_case(options, thickness)
        for prior in options.priors:
            rows.append({**case.told, "prior": prior, **restored(case, prior, options)})
            print(line(rows[-1]), flush=True)
            name = "series-acquired.json" if options.acquired else "series.json"
            (options.out / name).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    return 0


def parse_options() -> argparse.Namespace:
    parser = parser_of_series("Restore diffusion series of thicker slices.", [2, 4, 6])
    parser.add_argument("--acquired", action="store_true", help="philips_enh instead of the simulation")
    parser.add_argument("--volumes", type=int, default=30, help="of the simulation")
    return parser.parse_args()


def parser_of_series(description: str, thickness: Sequence[int]) -> argparse.ArgumentParser:
    """With what series have in common: scans, thickness in mm, and how the app is run."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--scans", type=Path, required=True, help="folder with the scans' folders")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:n")
    parser.add_argument("--thickness", type=int, nargs="+", default=thickness, help="mm")
    parser.add_argument("--priors", nargs="+", choices=["graph", "learned"], default=["graph", "learned"])
    parser.add_argument("--slab", type=int, help="take the middle so many voxels along z alone")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/series"))
    parser.add_argument("further", nargs="*", metavar="-- OPTION", help="further options of atlasgs")
    return parser


@dataclass(frozen=True)
class Case:
    """A dataset with one series, and what is known of it."""

    told: Mapping[str, Any]
    bids_dir: Path
    b_values: Vectors
    directions: Vectors
    """(volumes, 3), voxel axes of the truth."""
    acquired: Sequence[Volume]
    truth: "Truth"


@dataclass(frozen=True)
class Truth:
    """What restored volumes are compared with."""

    grid: Grid
    mask: Mask
    volumes: Sequence[Image]
    sub_mm: float
    """Results are averaged over so wide a cube of the truth's voxel."""
    tensors: Tensors
    """Where ``tensor_voxels`` are."""
    tensor_voxels: tuple[npt.NDArray[np.intp], ...]


def simulated_case(options: argparse.Namespace, thickness: int, noise: float = NOISE) -> Case:
    """``noise``: standard deviation, of the b0's 95th percentile."""
    anchor, t2w = stroke_pair(options)
    tissue = tissue_of(anchor, t2w)
    b_values, directions = protocol(options.volumes)
    factors = (IN_PLANE, IN_PLANE, thickness)
    volumes = [tissue.signal(*pair) for pair in zip(b_values, directions, strict=True)]
    sd = noise * float(np.percentile(tissue.b0[anchor.data > 0], 95))
    rng = np.random.default_rng(0)
    acquired = [averaged(Volume(image, anchor.world_from_voxel), factors, sd, rng) for image in volumes]
    bids_dir = options.out / f"simulated-{thickness}mm"
    series = write_dataset(bids_dir, "dwi/dwi", anchor, acquired, {"SkullStripped": True})
    write_gradients(series, anchor.world_from_voxel, b_values, directions)
    mask = anchor.data > 0
    voxels = every(mask)
    truth = Truth(anchor.grid, mask, volumes, 0.0, tissue.tensors(voxels), voxels)
    return Case({"thickness": thickness}, bids_dir, b_values, directions, acquired, truth)


def acquired_case(options: argparse.Namespace, thickness: int) -> Case:
    source = options.scans / "philips_enh" / "sub-philips"
    path = source / "dwi" / "sub-philips_dwi.nii.gz"
    image = nib.Nifti1Image.from_filename(path)
    data = np.asarray(image.dataobj, dtype=np.float32)
    b_values, directions = gradients_beside(path)
    volumes = [Volume(np.ascontiguousarray(data[..., k]), image.affine) for k in range(data.shape[3])]
    thick = [averaged(volume, (1, 1, thickness // 2), 0.0) for volume in volumes]
    bids_dir = options.out / f"acquired-{thickness}mm"
    b0 = data[..., b_values <= B0_AT_MOST].mean(3)
    # What lies in no thick slice, or beyond the T1w, whose face was cut away, is not asked for.
    t1w = load_volume(source / "anat" / "sub-philips_T1w.nii.gz")
    head = resample(t1w, volumes[0].grid)
    mask = (b0 > 0.25 * np.percentile(b0, 98)) & (head > 0.1 * np.percentile(t1w.data, 99))
    mask[:, :, thick[0].data.shape[2] * thickness // 2 :] = False
    series = write_dataset(bids_dir, "dwi/dwi", t1w, thick, {})
    write_gradients(series, thick[0].world_from_voxel, b_values, directions)
    voxels = tuple(np.nonzero(mask))
    known = fitted(data[voxels], b_values, directions)
    truth = Truth(volumes[0].grid, mask, [volume.data for volume in volumes], 2.0, known, voxels)
    return Case({"thickness": thickness}, bids_dir, b_values, directions, thick, truth)


def every(mask: Mask) -> tuple[npt.NDArray[np.intp], ...]:
    """Voxels of the mask, one of ``TENSOR_EVERY`` along each axis."""
    sparse = np.zeros_like(mask)
    step = slice(None, None, TENSOR_EVERY)
    sparse[step, step, step] = mask[step, step, step]
    return tuple(np.nonzero(sparse))


def stroke_pair(options: argparse.Namespace) -> tuple[Volume, Volume]:
    """T1w and T2w."""
    t1w, t2w = (
        middle_slab(load_volume(options.scans / "stroke" / f"{name}.nii.gz"), options.slab)
        for name in ("T1", "T2")
    )
    return t1w, t2w


def middle_slab(volume: Volume, n_slices: int | None) -> Volume:
    """The middle of the volume along z, whole slices of 12 mm; all of it for None."""
    if n_slices is None:
        return volume
    n_kept = n_slices - n_slices % 12
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


def protocol(n_volumes: int) -> tuple[Vectors, Vectors]:
    """b values (n,), s/mm², and directions (n, 3), voxel axes: spread over a half sphere, interleaved."""
    index = np.arange(n_volumes)
    b_values = np.where(index % B0_EVERY == 0, SHELLS[0], np.where(index % 2 == 1, SHELLS[1], SHELLS[2]))
    height, turn = (index + 0.5) / n_volumes, index * np.pi * (3 - 5**0.5)
    across = np.sqrt(1 - height**2)
    directions = np.stack([across * np.cos(turn), across * np.sin(turn), height], axis=1)
    return b_values.astype(np.float64), np.where(b_values[:, None] == 0, 0.0, directions)


def averaged(
    volume: Volume, factors: tuple[int, int, int], noise: float, rng: np.random.Generator | None = None
) -> Volume:
    """In voxels ``factors`` times as large, with Rician noise, in steps of an eighth."""
    world = volume.world_from_voxel.copy()
    world[:3, 3] += world[:3, :3] @ ((np.array(factors) - 1) / 2)
    world[:3, :3] = world[:3, :3] * factors
    (x, a), (y, b), (z, c) = ((n // f, f) for n, f in zip(volume.data.shape, factors, strict=True))
    data = volume.data[: x * a, : y * b, : z * c].reshape(x, a, y, b, z, c).mean(axis=(1, 3, 5))
    if rng is not None:
        real, imaginary = rng.normal(0, noise, (2, x, y, z))
        data = np.hypot(data + real, imaginary)
    return Volume(np.rint(8 * data).astype(np.float32) / 8, world)


def write_dataset(
    bids_dir: Path,
    name: str,
    anchor: Volume,
    acquired: Sequence[Volume],
    about: Mapping[str, Any],
    labelling: Mapping[str, Any] | None = None,
) -> Path:
    """A new dataset of the anchor and a series (``dwi/dwi``, ``perf/asl``); the series' path, no extension.

    ``about``: of both sidecars; ``labelling``: of the series alone.
    """
    shutil.rmtree(bids_dir, ignore_errors=True)
    folder, suffix = name.split("/")
    description = {"Name": "Series in thick slices", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    data, world = np.stack([volume.data for volume in acquired], axis=3), acquired[0].world_from_voxel
    sidecar = {**about, **(labelling or {}), "SliceThickness": float(np.linalg.norm(world[:3, 2]))}
    series = bids_dir / STEM / folder / f"{STEM}_{suffix}"
    for image, affine, path, content in (
        (anchor.data, anchor.world_from_voxel, bids_dir / STEM / "anat" / f"{STEM}_T1w", about),
        (data, world, series, sidecar),
    ):
        path.parent.mkdir(parents=True)
        nifti = nib.Nifti1Image(image, affine)
        nifti.set_sform(affine, 1)
        nifti.set_qform(affine, 1)
        nifti.header.set_xyzt_units("mm", "sec")
        nib.save(nifti, path.with_suffix(".nii.gz"))
        write_json(path.with_suffix(".json"), content)
    write_json(bids_dir / "dataset_description.json", description)
    (bids_dir / "README.md").write_text("# Series in thick slices\n", encoding="utf-8")
    return series


def write_gradients(series: Path, world: Vectors, b_values: Vectors, directions: Vectors) -> None:
    """bval and bvec of directions (volumes, 3) in voxel axes, beside the series."""
    flip = [-1 if np.linalg.det(world[:3, :3]) > 0 else 1, 1, 1]
    np.savetxt(series.with_suffix(".bval"), b_values[None], fmt="%g")
    np.savetxt(series.with_suffix(".bvec"), (directions * flip).T + 0.0, fmt="%.6f")


def run_app(bids_dir: Path, prior: str, options: argparse.Namespace) -> tuple[Path, dict[str, float]]:
    """The app on a dataset; its folder, and seconds and host memory of the process."""
    out_dir = bids_dir.with_name(f"{bids_dir.name}-{prior}")
    shutil.rmtree(out_dir, ignore_errors=True)
    command = [
        sys.executable, "-m", "atlasgs_bids", str(bids_dir), str(out_dir), "participant", "--no-viewer",
        "--skip-bids-validation", "--device", options.device, "--prior", prior, *options.further,
    ]  # fmt: skip
    started_s = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"atlasgs ended with {code}")
    return out_dir, {"seconds": time.monotonic() - started_s, "host_gib": usage.ru_maxrss / 2**20}


def restored(case: Case, prior: str, options: argparse.Namespace) -> dict[str, Any]:
    """The app's run, and its scores beside cubic's."""
    out_dir, costs = run_app(case.bids_dir, prior, options)
    found = {**costs, **metrics(out_dir)}
    (path,) = out_dir.glob("sub-*/dwi/*_desc-sr_dwi.nii.gz")
    (xfm,) = out_dir.glob("sub-*/dwi/*_xfm.txt")
    target_from_anchor = read_itk_transform(xfm)
    image = nib.Nifti1Image.from_filename(path)
    _, directions = gradients_beside(path)
    series = np.asarray(image.dataobj, dtype=np.float32)
    ours = [Volume(np.ascontiguousarray(series[..., k]), image.affine) for k in range(series.shape[3])]
    anchor_from_target = np.asarray(np.linalg.inv(target_from_anchor), np.float64)
    # An acquired truth lies where the app found it; the simulated one where the anchor is.
    if options.acquired:
        see, see_cubic = partial(seen, case.truth, pose=anchor_from_target), partial(seen, case.truth)
        turn = target_from_anchor[:3, :3] @ axes(image.affine)
        directions = directions @ (np.linalg.inv(axes(case.truth.grid.world_from_voxel)) @ turn).T
    else:
        see, see_cubic = partial(seen, case.truth), partial(seen, case.truth, pose=target_from_anchor)
    return {
        **found,
        "cubic": scores(case, [see_cubic(volume) for volume in case.acquired], case.directions),
        "atlasgs": scores(case, [see(volume) for volume in ours], directions),
    }


def axes(affine: npt.NDArray[np.floating]) -> Vectors:
    """Unit vectors of the voxel axes, as columns."""
    return np.asarray(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0), np.float64)


def seen(truth: Truth, volume: Volume, pose: Vectors | None = None) -> Image:
    """A volume in the truth's voxels: at their centres, or as the mean over eight points of each."""
    pose = np.eye(4) if pose is None else pose
    if not truth.sub_mm:
        return resample(volume, truth.grid, pose)
    total: Image = np.zeros(truth.grid.shape, np.float32)
    for corner in np.ndindex(2, 2, 2):
        world = truth.grid.world_from_voxel.copy()
        world[:3, 3] += world[:3, :3] @ ((np.array(corner) - 0.5) / 2)
        total += resample(volume, Grid(truth.grid.shape, world), pose) / np.float32(8)
    return total


def scores(case: Case, images: Sequence[Image], directions: Vectors) -> dict[str, float]:
    """PSNR of each shell's volumes, mean, and errors of tensors."""
    truth = case.truth
    found: dict[str, float] = {}
    shells = np.where(case.b_values <= B0_AT_MOST, 0, np.round(case.b_values / 100) * 100).astype(int)
    for shell in np.unique(shells):
        values = [
            psnr_db(truth.volumes[k], images[k], truth.mask) for k in np.flatnonzero(shells == shell).tolist()
        ]
        found[f"b{shell}"] = float(np.mean(values))
    signals = np.stack([image[truth.tensor_voxels] for image in images], axis=1)
    return found | errors(fitted(signals, case.b_values, directions), truth.tensors)


def metrics(out_dir: Path) -> dict[str, Any]:
    (path,) = out_dir.glob("sub-*/dwi/*_desc-sr_metrics.tsv")
    with path.open(encoding="utf-8") as file:
        row = next(csv.DictReader(file, delimiter="\t"))
    wanted = ("n_gaussians", "trust", "seconds_", "peak_gpu", "registration_displacement")
    return {name: value for name, value in row.items() if name.startswith(wanted)}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: each case by cubic and by each prior."""
    shells = [name for name in rows[0]["cubic"] if name.startswith("b")]
    head = ["slices, mm", "by", *(f"b = {name[1:]}, dB" for name in shells), "FA", "MD, %", "angle, °", "s"]
    lines: list[list[str]] = []
    told = set()
    for row in rows:
        if row["thickness"] not in told:
            told.add(row["thickness"])
            lines.append(cells(row["thickness"], "cubic", row["cubic"], shells, ""))
        lines.append(cells(row["thickness"], row["prior"], row["atlasgs"], shells, f"{row['seconds']:.0f}"))
    return markdown(head, lines).rstrip()


def cells(
    thickness: int, name: str, found: Mapping[str, float], shells: Sequence[str], seconds: str
) -> list[str]:
    values = [f"{found[shell]:.2f}" for shell in shells]
    values += [f"{found['fa']:.3f} ({found['fa_bias']:+.3f})", f"{found['md']:.1f}", f"{found['angle']:.1f}"]
    return [str(thickness), name, *values, seconds]


def line(row: Mapping[str, Any]) -> str:
    return f"{row['thickness']} mm, {row['prior']}: {json.dumps(row)}"


def write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
