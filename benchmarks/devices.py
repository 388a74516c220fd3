"""The simulated cases of real.py through the core alone, on one device: to compare devices with each other.

    python benchmarks/devices.py --scans DIR --device cuda

Needs torch, scipy, nibabel and jaxtyping only, so it runs where the app cannot be installed. Prints PSNR in
the mask (T1w above 0), seconds of each stage and peak GPU memory; headers are taken as they are.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from scipy import integrate, ndimage

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.appearance import fit_appearance
from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.core.priors.graph import GraphLaplacian, anchor_features
from atlasgs_bids.core.scaffold import fit_scaffold
from atlasgs_bids.core.settings import CoreSettings
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.core.splat.render import render
from atlasgs_bids.imaging.volume import load_volume
from atlasgs_bids.study.degrade import simulate_thick_slices, true_slice_profile

SLICE_AXIS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description="The core on one device, on simulated slices of real scans.")
    parser.add_argument("--scans", type=Path, required=True, help="folder with stroke/{T1,T2,FLAIR}.nii.gz")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--factors", type=int, nargs="+", default=[3, 5, 7])
    options = parser.parse_args()
    device, settings = options.device, CoreSettings()
    volumes = {
        name: load_volume(options.scans / "stroke" / f"{name}.nii.gz") for name in ("T1", "FLAIR", "T2")
    }
    images = {name: volume.data for name, volume in volumes.items()}
    world_from_voxel = volumes["T1"].world_from_voxel
    world = torch.from_numpy(world_from_voxel)
    anchor, mask = images["T1"], images["T1"] > 0
    support = torch.from_numpy(ndimage.binary_dilation(mask, iterations=2)).to(device)

    started = time.perf_counter()
    fitted = fit_scaffold(torch.from_numpy(anchor).to(device), support, world, settings)
    gaussians = fitted.gaussians
    print(
        f"{device}, torch {torch.__version__}: {len(gaussians)} Gaussians, {fitted.n_steps} steps, "
        f"{fitted.anchor_psnr_db:.1f} dB, {time.perf_counter() - started:.1f} s",
        flush=True,
    )
    started = time.perf_counter()
    voxel_from_world = np.linalg.inv(world_from_voxel)
    means_vox = gaussians.means_mm.cpu().numpy() @ voxel_from_world[:3, :3].T + voxel_from_world[:3, 3]
    sampled = [
        torch.from_numpy(ndimage.map_coordinates(image, means_vox.T, order=1, mode="nearest"))
        for image in (anchor, ndimage.gaussian_filter(anchor, 1.0))
    ]
    scale = float(np.percentile(anchor[mask], 99))
    features = anchor_features(sampled[0], sampled[1], scale, settings.graph)
    prior = GraphLaplacian(gaussians, features.to(device), settings.graph)
    print(f"graph: {time.perf_counter() - started:.1f} s", flush=True)

    shape = (anchor.shape[0], anchor.shape[1], anchor.shape[2])
    for factor in options.factors:
        offsets_mm, density = true_slice_profile(float(factor), 1.0)
        cumulative = integrate.cumulative_trapezoid(density, offsets_mm, initial=0)
        profile = (offsets_mm, cumulative / cumulative[-1])
        for name in ("FLAIR", "T2"):
            started = time.perf_counter()
            data, native = simulate_thick_slices(images[name], world_from_voxel, SLICE_AXIS, factor)
            native_shape = (data.shape[0], data.shape[1], data.shape[2])
            sizes_mm = (1.0, 1.0, float(factor))
            samplings = slice_sampling(native_shape, sizes_mm, SLICE_AXIS, profile, 1.0)
            acquisition = AcquisitionOperator(samplings, device)
            lattice = torch.from_numpy(native) @ acquisition.native_from_lattice
            n_x, n_y, n_z = acquisition.shape_in
            op = acquisition @ SplatOperator(gaussians, (n_x, n_y, n_z), lattice)
            slices = torch.from_numpy(data).to(device)
            weights = (op.forward(torch.ones(len(gaussians), device=device)) > 0.05).float()
            appearance = fit_appearance(op, slices, weights, prior, SLICE_AXIS, settings.appearance)
            rendered = render(gaussians, appearance.amplitudes, shape, world, settings.chunk_elements)
            quality_db = psnr_db(images[name], rendered.cpu().numpy(), mask)
            print(
                f"{name} x{factor}: {quality_db:.3f} dB, λ {appearance.regularization}, "
                f"{appearance.solution.n_steps} steps, {time.perf_counter() - started:.1f} s",
                flush=True,
            )
    if device != "cpu":
        print(f"peak GPU memory {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
