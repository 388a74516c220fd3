"""The Gaussian engine beside the torch reference and gsplat: time, memory, and what the hardware could do.

    python benchmarks/engine.py --scans DIR --device cuda --out engine

Prints tables and writes engine.json, engine.png and engine-growth.png. DIR holds stroke/{T1,T2,FLAIR}.nii.gz.
Needs torch, scipy, nibabel and jaxtyping; gsplat is timed where its CUDA kernels can be had (--gsplat).
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.appearance import fit_appearance
from atlasgs_bids.core.gaussians import Gaussians, project
from atlasgs_bids.core.observation import Observation
from atlasgs_bids.core.priors.graph import GraphLaplacian, anchor_features
from atlasgs_bids.core.scaffold import Scaffold, fit_scaffold
from atlasgs_bids.core.settings import CoreSettings
from atlasgs_bids.core.splat import reference
from atlasgs_bids.core.splat.kernels import kernels_for
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.core.splat.render import DENSITY_FLOOR, splat
from atlasgs_bids.imaging.nifti import load_volume

from engine_figure import draw

Row = dict[str, float | str]
CHUNK = CoreSettings().chunk_elements


class Bench:
    """Times on one device."""

    def __init__(self, device: str, repeats: int) -> None:
        self.device, self.repeats = device, repeats

    def wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], object]) -> float:
        """Median over the repeats, after one call that compiles."""
        call()
        durations = []
        for _ in range(self.repeats):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            durations.append(time.perf_counter() - start)
        return float(np.median(durations))

    def once(self, call: Callable[[], Any]) -> tuple[Any, float, float]:
        """The result, its seconds, and the peak GPU memory in GiB."""
        self.wait()
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats(self.device)
        start = time.perf_counter()
        result = call()
        self.wait()
        seconds = time.perf_counter() - start
        return result, seconds, self.peak_gib()

    def peak_gib(self) -> float:
        return 0.0 if self.device == "cpu" else torch.cuda.max_memory_allocated(self.device) / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the Gaussian engine.")
    parser.add_argument("--scans", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("engine"))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--n-gaussians", type=int, nargs="+", default=[100_000, 400_000, 800_000, 1_600_000])
    parser.add_argument("--gsplat", action="store_true", help="time gsplat too; builds its kernels first")
    parser.add_argument("--head", action="store_true", help="a full head of 256 x 256 x 256 voxels too")
    options = parser.parse_args()
    bench = Bench(options.device, options.repeats)
    volume = load_volume(options.scans / "stroke" / "T1.nii.gz")
    world = torch.from_numpy(volume.world_from_voxel)
    report: dict[str, Any] = {"device": _name(options.device), "torch": torch.__version__}
    report["ceilings"] = ceilings(bench)
    report["kernels"] = kernels(bench, volume.data, world, options.n_gaussians, options.gsplat)
    report["kernels"] = [row | _shares(row, report["ceilings"]) for row in report["kernels"]]
    for row in report["kernels"]:
        _print({key: value for key, value in row.items() if key == "n" or "share" in key})
    report["subject"] = subject(bench, volume.data, world)
    report["voxels"] = over_voxels(bench, volume.data, world)
    if options.head:
        report["head"] = head(bench, volume.data)
    options.out.with_suffix(".json").write_text(json.dumps(report, indent=1))
    draw(report, options.out)


def ceilings(bench: Bench) -> Row:
    """Copy bandwidth and float32 rate as measured here."""
    n = 2**28 if bench.device != "cpu" else 2**25
    source = torch.rand(n, device=bench.device)
    target = torch.empty_like(source)
    copy = 8 * n / bench.seconds(lambda: target.copy_(source)) / 1e9
    a = torch.rand(4096 if bench.device != "cpu" else 1024, 4096, device=bench.device)
    rate = 2 * a.shape[0] ** 2 * a.shape[1] / bench.seconds(lambda: a @ a.T) / 1e9
    row: Row = {"copy_GB_per_s": round(copy), "float32_GFLOP_per_s": round(rate)}
    print("ceilings", row, flush=True)
    return row


def kernels(bench: Bench, anchor: np.ndarray, world: Tensor, counts: list[int], gsplat: bool) -> list[Row]:
    """One forward and all gradients at several N: this engine, its parts, the reference, gsplat."""
    image, support = _anchor(anchor, bench.device)
    shape = _shape(image)
    upstream = torch.randn(shape, device=bench.device)
    rows: list[Row] = []
    for n in counts:
        settings = _settings(n, 5)
        gaussians = fit_scaffold(image, support, world, settings).gaussians
        voxel_from_world = torch.linalg.inv(world).float().to(bench.device)
        means, scales, quaternions, amplitudes = (
            value.clone().requires_grad_() for value in vars(gaussians).values()
        )

        def both(leaves: tuple[Tensor, ...], frame: Tensor = voxel_from_world) -> None:
            for leaf in leaves:
                leaf.grad = None
            image = splat(leaves[0], leaves[1], leaves[2], leaves[3], frame, shape, CHUNK)
            image.backward(upstream)  # type: ignore[no-untyped-call]

        leaves = means, scales, quaternions, amplitudes
        total = bench.seconds(lambda leaves=leaves: both(leaves))  # type: ignore[misc]
        _, _, memory = bench.once(lambda leaves=leaves: both(leaves))  # type: ignore[misc]
        row: Row = {"n": n, "forward and gradients ms": 1e3 * total, "peak GiB": memory}
        row |= _parts(bench, gaussians, voxel_from_world, shape, upstream)
        row |= _reference_ms(bench, gaussians, voxel_from_world, shape, upstream)
        row["voxels"] = math.prod(shape)
        if gsplat:
            row |= _gsplat(bench, gaussians, world, shape)
        rows.append(row)
        _print(row)
    return rows


_FLOATS_PER_GAUSSIAN = 2 * 11
_FLOATS_PER_VOXEL = 2 * 2
"""Read and written by a forward and all gradients, if each number moved once."""
_OPERATIONS_PER_PAIR = 60
"""Of a Gaussian and a voxel inside of its cut-off, forward and gradients (decision 0008)."""


def _shares(row: Row, ceilings: Row) -> Row:
    """Time that the least traffic and the least arithmetic take at the ceilings, over the measured time."""
    seconds = float(row["forward and gradients ms"]) / 1e3
    n, n_voxels, pairs = float(row["n"]), float(row["voxels"]), float(row["pairs per Gaussian"])
    n_bytes = 4 * (_FLOATS_PER_GAUSSIAN * n + _FLOATS_PER_VOXEL * n_voxels)
    operations = _OPERATIONS_PER_PAIR * pairs * n
    return {
        "share of copy bandwidth": n_bytes / seconds / (1e9 * float(ceilings["copy_GB_per_s"])),
        "share of arithmetic rate": operations / seconds / (1e9 * float(ceilings["float32_GFLOP_per_s"])),
    }


def _parts(bench: Bench, gaussians: Gaussians, frame: Tensor, shape: Any, upstream: Tensor) -> Row:
    """Milliseconds of each kernel, and the share of the ceilings that the two large ones reach."""
    ours = kernels_for(gaussians.means_mm)
    means, scales, quaternions, amplitudes = vars(gaussians).values()
    projected = ours.project(means, scales, quaternions, frame)
    lists = ours.lists(projected, shape)
    numerator, density = ours.scatter(projected, lists, amplitudes, shape, CHUNK)
    density += DENSITY_FLOOR
    rendered, residual = numerator / density, upstream / density
    grads = ours.gather(projected, amplitudes, residual, rendered, CHUNK)
    rows = torch.zeros(shape, dtype=torch.int32, device=means.device)
    calls: dict[str, Callable[[], object]] = {
        "project": lambda: ours.project(means, scales, quaternions, frame),
        "lists": lambda: ours.lists(projected, shape),
        "scatter": lambda: ours.scatter(projected, lists, amplitudes, shape, CHUNK),
        "gather": lambda: ours.gather(projected, amplitudes, residual, rendered, CHUNK),
        "adjoint": lambda: ours.adjoint(projected, residual, CHUNK),
        "project_backward": lambda: ours.project_backward(scales, quaternions, frame, grads[1], grads[2]),
    }
    result: Row = {f"{name} ms": 1e3 * bench.seconds(call) for name, call in calls.items()}
    result["pairs per Gaussian"] = float(ours.count_pairs(projected, rows, CHUNK).sum()) / len(gaussians)
    return result


def _reference_ms(bench: Bench, gaussians: Gaussians, frame: Tensor, shape: Any, upstream: Tensor) -> Row:
    """The torch reference with autograd through the projection, once warm."""

    def call() -> None:
        leaves = [value.clone().requires_grad_() for value in vars(gaussians).values()]
        projected = project(leaves[0], leaves[1], leaves[2], frame)
        numerator, density = reference.scatter(projected, None, leaves[3].detach(), shape, CHUNK)
        density = density + DENSITY_FLOOR
        grads = reference.gather(projected, leaves[3], upstream / density, numerator / density, CHUNK)
        torch.autograd.grad([projected.means_vox, projected.precisions_vox], leaves[:3], grads[1:])

    few = Bench(bench.device, 3)
    return {"reference ms": 1e3 * few.seconds(call), "reference peak GiB": few.once(call)[2]}


def _gsplat(bench: Bench, gaussians: Gaussians, world: Tensor, shape: Any) -> Row:
    """gsplat rasterising the same Gaussians to the same slices: an orthographic camera for each slice.

    A camera sees the Gaussians whose centres lie within 1.5 mm of its slice, and composites them; one call
    draws all slices.
    """
    from gsplat import rasterization  # noqa: PLC0415 - optional here, and its first use compiles

    device = bench.device
    distance_mm = 10.0
    views = torch.eye(4).repeat(shape[2], 1, 1)
    sizes = world[:3, :3].float().norm(dim=0)
    # Camera axes along the voxel axes; slice k lies at depth ``distance_mm``.
    axes = world[:3, :3].float() / sizes
    for k in range(shape[2]):
        origin = world[:3, 3].float() + world[:3, 2].float() * k - axes[:, 2] * distance_mm
        views[k, :3, :3], views[k, :3, 3] = axes.T, -axes.T @ origin
    camera = torch.tensor([[1 / sizes[0], 0, 0.5], [0, 1 / sizes[1], 0.5], [0, 0, 1]]).repeat(shape[2], 1, 1)
    views, camera = views.to(device), camera.to(device)
    upstream = torch.randn(shape[2], shape[1], shape[0], 1, device=device)
    leaves = [value.clone().requires_grad_() for value in vars(gaussians).values()]

    def forward() -> Tensor:
        images: Tensor = rasterization(
            leaves[0], leaves[2], leaves[1], torch.full_like(leaves[3], 0.5), leaves[3][:, None],
            views, camera, shape[0], shape[1], near_plane=distance_mm - 1.5, far_plane=distance_mm + 1.5,
            camera_model="ortho", packed=True, sh_degree=None,
        )[0]  # fmt: skip
        return images

    def both() -> None:
        for leaf in leaves:
            leaf.grad = None
        forward().backward(upstream)  # type: ignore[no-untyped-call]

    seconds = bench.seconds(both)
    return {
        "gsplat forward and gradients ms": 1e3 * seconds,
        "gsplat peak GiB": bench.once(both)[2],
        "gsplat pixels drawn": float((forward() != 0).float().mean()),
    }


def subject(bench: Bench, anchor: np.ndarray, world: Tensor) -> Row:
    """Stage 1, the graph and one solve at 800 k Gaussians, with an oblique stack at x5."""
    image, support = _anchor(anchor, bench.device)
    row = _subject(bench, image, support, world, CoreSettings(), 800_000)
    print("subject of 800 k", flush=True)
    _print(row)
    return row


def head(bench: Bench, anchor: np.ndarray) -> Row:
    """A full head: the brain mirrored until it fills 256 x 256 x 256 voxels, and a ball of 5 M voxels."""
    brain = anchor[tuple(slice(index.min(), index.max() + 1) for index in np.nonzero(anchor > 0))]
    missing = [(0, max(0, 256 - n)) for n in brain.shape]
    tiled = np.pad(brain, missing, mode="symmetric")[:256, :256, :256]
    axes = np.ogrid[:256, :256, :256]
    ball = sum(((axis - 127.5) / 127) ** 2 for axis in axes) < (5e6 / (4 / 3 * math.pi * 127**3)) ** (2 / 3)
    tiled = np.where(ball, np.maximum(tiled, 1), 0).astype(np.float32)
    image, support = torch.from_numpy(tiled).to(bench.device), torch.from_numpy(ball).to(bench.device)
    row = _subject(bench, image, support, torch.eye(4, dtype=torch.float64), CoreSettings(), None)
    print("full head", flush=True)
    _print(row)
    return row


def over_voxels(bench: Bench, anchor: np.ndarray, world: Tensor) -> list[Row]:
    """One forward and all gradients on finer and coarser grids, one Gaussian for each foreground voxel."""
    rows: list[Row] = []
    for zoom in (0.5, 0.7, 1.0, 1.4):
        coarse = ndimage.zoom(anchor, zoom, order=1)
        image, support = _anchor(coarse, bench.device)
        finer = world.clone()
        finer[:3, :3] /= zoom
        fitted = fit_scaffold(image, support, finer, _settings(int(support.sum()), 3)).gaussians
        frame = torch.linalg.inv(finer).float().to(bench.device)
        upstream = torch.randn(_shape(image), device=bench.device)
        leaves = [value.clone().requires_grad_() for value in vars(fitted).values()]

        def both(leaves: list[Tensor] = leaves, frame: Tensor = frame, upstream: Tensor = upstream) -> None:
            means, scales, quaternions, amplitudes = leaves
            image = splat(means, scales, quaternions, amplitudes, frame, _shape(upstream), CHUNK)
            image.backward(upstream)  # type: ignore[no-untyped-call]

        rows.append({"voxels": image.numel(), "n": len(fitted), "ms": 1e3 * bench.seconds(both)})
        _print(rows[-1])
    return rows


def _subject(
    bench: Bench,
    image: Tensor,
    support: Tensor,
    world: Tensor,
    settings: CoreSettings,
    n_gaussians: int | None,
) -> Row:
    settings = replace(settings, scaffold=replace(settings.scaffold, n_gaussians=n_gaussians))
    if bench.device != "cpu":
        fit_scaffold(image, support, world, _settings(50_000, 2))  # compiles
    fitted: Scaffold
    fitted, stage_1, stage_1_gib = bench.once(lambda: fit_scaffold(image, support, world, settings))
    gaussians = fitted.gaussians
    prior, graph_seconds, graph_gib = bench.once(lambda: _graph(image, gaussians, world, settings))
    factor, tilt = 5, math.radians(12)
    lattice_shape = _shape(image)
    native_shape = lattice_shape[0], lattice_shape[1], lattice_shape[2] // factor
    box = np.array([-0.5, 0.5]) * factor, np.array([0.0, 1.0])
    acquisition = AcquisitionOperator(
        slice_sampling(native_shape, (1.0, 1.0, float(factor)), 2, box, 1.0), bench.device
    )
    turn = torch.eye(4, dtype=torch.float64)
    turn[1, 1] = turn[2, 2] = math.cos(tilt)
    turn[2, 1], turn[1, 2] = math.sin(tilt), -math.sin(tilt)
    centre = world @ torch.tensor([*[(n - 1) / 2 for n in lattice_shape], 1.0], dtype=torch.float64)
    turn[:3, 3] = centre[:3] - turn[:3, :3] @ centre[:3]
    native = torch.eye(4, dtype=torch.float64)
    native[2, 2], native[2, 3] = factor, (factor - 1) / 2
    lattice = turn @ world @ native @ acquisition.native_from_lattice
    shape = (acquisition.shape_in[0], acquisition.shape_in[1], acquisition.shape_in[2])
    splat_op, matrix_seconds, matrix_gib = bench.once(lambda: SplatOperator(gaussians, shape, lattice))
    op = acquisition @ splat_op
    slices = op.forward(gaussians.amplitudes.square())
    weights = (op.forward(torch.ones_like(gaussians.amplitudes)) > 0.5).float()
    observation = Observation(slices, weights, op, slice_axis=2)
    chosen = replace(settings.appearance, regularization=0.03)
    solve = Bench(bench.device, 3)
    appearance = fit_appearance(observation, prior, chosen)
    solve_seconds = solve.seconds(lambda: fit_appearance(observation, prior, chosen))
    return {
        "n": len(gaussians),
        "support voxels": int(support.sum()),
        "stage 1 s": stage_1,
        "stage 1 steps": fitted.n_steps,
        "anchor PSNR dB": fitted.anchor_psnr_db,
        "stage 1 peak GiB": stage_1_gib,
        "graph s": graph_seconds,
        "graph peak GiB": graph_gib,
        "operator s": matrix_seconds,
        "operator is a matrix": str(splat_op.is_matrix),
        "operator peak GiB": matrix_gib,
        "solve s": solve_seconds,
        "solve steps": appearance.solution.n_steps,
        "relative residual": appearance.solution.relative_residual,
        "stage 1, graph, operator and solve s": stage_1 + graph_seconds + matrix_seconds + solve_seconds,
        "solve peak GiB": bench.peak_gib(),
    }


def _graph(image: Tensor, gaussians: Gaussians, world: Tensor, settings: CoreSettings) -> GraphLaplacian:
    voxel_from_world = torch.linalg.inv(world).float().to(image.device)
    voxels = (gaussians.means_mm @ voxel_from_world[:3, :3].T + voxel_from_world[:3, 3]).round().long()
    index = tuple(column.clamp(0, n - 1) for column, n in zip(voxels.unbind(1), image.shape, strict=True))
    smooth = torch.nn.functional.avg_pool3d(image[None, None], 3, 1, 1)[0, 0]
    features = anchor_features(image[index], smooth[index], float(image.max()), settings.graph)
    return GraphLaplacian(gaussians, features, settings.graph)


def _settings(n_gaussians: int, n_steps: int) -> CoreSettings:
    default = CoreSettings()
    return replace(default, scaffold=replace(default.scaffold, n_gaussians=n_gaussians, n_steps=n_steps))


def _anchor(anchor: np.ndarray, device: str) -> tuple[Tensor, Tensor]:
    support = ndimage.binary_dilation(anchor > 0.02 * anchor.max(), iterations=2)
    return torch.from_numpy(np.ascontiguousarray(anchor)).to(device), torch.from_numpy(support).to(device)


def _shape(image: Tensor) -> tuple[int, int, int]:
    return image.shape[0], image.shape[1], image.shape[2]


def _name(device: str) -> str:
    return device if device == "cpu" else torch.cuda.get_device_name(device)


def _print(row: Row) -> None:
    text = ", ".join(
        f"{key} {value if isinstance(value, str) else f'{value:.4g}'}" for key, value in row.items()
    )
    print(f"  {text}", flush=True)


if __name__ == "__main__":
    main()
