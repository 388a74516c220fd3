"""The simulated cases of real.py through the core alone, on one device: to compare devices with each other.

    python benchmarks/devices.py --scans DIR --device cuda [--prior learned] [--fast]

Needs torch, scipy, nibabel and jaxtyping only, so it runs where the app cannot be installed. Prints PSNR in
the mask (T1w above 0), SSIM where scikit-image is at hand, how much of the truth the 90 % interval holds,
seconds of each stage and peak GPU memory; headers are taken as they are.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import integrate, ndimage

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.appearance import Appearance, fit_appearance, fit_expected_appearance
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.metrics import noise_sd, psnr_db, ssim
from atlasgs_bids.core.priors.expectation import Expectation, ObservedStack, expect
from atlasgs_bids.core.priors.graph import GraphLaplacian, anchor_features
from atlasgs_bids.core.scaffold import fit_scaffold
from atlasgs_bids.core.settings import LEARNED_CPU, LEARNED_FAST, CoreSettings, LearnedSettings
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.core.splat.render import render
from atlasgs_bids.core.uncertainty import estimate_uncertainty
from atlasgs_bids.imaging.volume import load_volume
from atlasgs_bids.study.degrade import simulate_thick_slices, true_slice_profile

SLICE_AXIS = 2
Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """The scans and the scaffold of their anchor."""

    images: dict[str, Image]
    world_from_voxel: npt.NDArray[np.float64]
    gaussians: Gaussians
    prior: GraphLaplacian
    device: str

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Where the anchor has signal."""
        return self.images["T1"] > 0

    def render(self, amplitudes: torch.Tensor) -> Image:
        """The image of the amplitudes on the scans' grid."""
        n_x, n_y, n_z = self.images["T1"].shape
        world = torch.from_numpy(self.world_from_voxel)
        shape = (n_x, n_y, n_z)
        rendered: Image = (
            render(self.gaussians, amplitudes, shape, world, SETTINGS.chunk_elements).cpu().numpy()
        )
        return rendered


SETTINGS = CoreSettings()


def main() -> None:
    parser = argparse.ArgumentParser(description="The core on one device, on simulated slices of real scans.")
    parser.add_argument("--scans", type=Path, required=True, help="folder with stroke/{T1,T2,FLAIR}.nii.gz")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--factors", type=int, nargs="+", default=[3, 5, 7])
    parser.add_argument("--prior", choices=["graph", "learned"], default="graph")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for the middle cuts of each case")
    options = parser.parse_args()
    network = None
    if options.prior == "learned":
        network = (
            LEARNED_CPU if options.device == "cpu" else LEARNED_FAST if options.fast else SETTINGS.learned
        )
    scene = prepare(options.scans, options.device)
    for factor in options.factors:
        for name in ("FLAIR", "T2"):
            restore(scene, name, factor, network, options.out)
    if options.device != "cpu":
        print(f"peak GPU memory {torch.cuda.max_memory_allocated(options.device) / 2**30:.2f} GiB")


def prepare(scans: Path, device: str) -> Scene:
    """Stage 1 and the graph."""
    volumes = {name: load_volume(scans / "stroke" / f"{name}.nii.gz") for name in ("T1", "FLAIR", "T2")}
    images = {name: volume.data for name, volume in volumes.items()}
    world_from_voxel = volumes["T1"].world_from_voxel
    anchor, mask = images["T1"], images["T1"] > 0
    support = torch.from_numpy(ndimage.binary_dilation(mask, iterations=2)).to(device)
    started = time.perf_counter()
    image = torch.from_numpy(anchor).to(device)
    fitted = fit_scaffold(image, support, torch.from_numpy(world_from_voxel), SETTINGS)
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
        torch.from_numpy(ndimage.map_coordinates(values, means_vox.T, order=1, mode="nearest"))
        for values in (anchor, ndimage.gaussian_filter(anchor, 1.0))
    ]
    scale = float(np.percentile(anchor[mask], 99))
    features = anchor_features(sampled[0], sampled[1], scale, SETTINGS.graph)
    prior = GraphLaplacian(gaussians, features.to(device), SETTINGS.graph)
    print(f"graph: {time.perf_counter() - started:.1f} s", flush=True)
    return Scene(images, world_from_voxel, gaussians, prior, device)


def restore(scene: Scene, name: str, factor: int, network: LearnedSettings | None, out: Path | None) -> None:
    """One case: simulated, restored by the graph (no network) or the learned prior, scored."""
    started = time.perf_counter()
    device, gaussians, truth, mask = scene.device, scene.gaussians, scene.images[name], scene.mask
    offsets_mm, density = true_slice_profile(float(factor), 1.0)
    cumulative = integrate.cumulative_trapezoid(density, offsets_mm, initial=0)
    profile = (offsets_mm, cumulative / cumulative[-1])
    data, native = simulate_thick_slices(truth, scene.world_from_voxel, SLICE_AXIS, factor)
    native_shape = (data.shape[0], data.shape[1], data.shape[2])
    samplings = slice_sampling(native_shape, (1.0, 1.0, float(factor)), SLICE_AXIS, profile, 1.0)
    acquisition = AcquisitionOperator(samplings, device)
    lattice = torch.from_numpy(native) @ acquisition.native_from_lattice
    n_x, n_y, n_z = acquisition.shape_in
    splat = SplatOperator(gaussians, (n_x, n_y, n_z), lattice)
    op = acquisition @ splat
    slices = torch.from_numpy(data).to(device)
    ones = torch.ones(len(gaussians), device=device)
    weights = (op.forward(ones) > 0.05).float()
    noise = noise_sd(data, SLICE_AXIS, weights.cpu().numpy() > 0)
    expectations = []
    if network is None:
        appearance = fit_appearance(op, slices, weights, scene.prior, SLICE_AXIS, SETTINGS.appearance)
    else:
        inside = splat.forward(ones) > 0.5
        stack = ObservedStack(slices, weights, inside, SLICE_AXIS, noise, acquisition, splat, lattice)
        expectations = [expect(stack, gaussians, network, SETTINGS.seed).expectation]
        appearance = fit_expected_appearance(
            op, slices, weights, scene.prior, expectations, noise, SETTINGS.appearance
        )
    image = np.maximum(scene.render(appearance.amplitudes), 0)
    seconds = time.perf_counter() - started
    sd = _sd(scene, appearance, expectations, noise)
    covered = (np.abs(image - truth) <= 1.645 * sd)[mask].mean()
    print(
        f"{name} x{factor}: {psnr_db(truth, image, mask):.3f} dB, SSIM {_ssim(truth, image, mask):.4f}, "
        f"90 % interval {100 * covered:.1f} %, λ {appearance.regularization}, trust {appearance.trust}, "
        f"{appearance.solution.n_steps} steps, {seconds:.1f} s",
        flush=True,
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for axis in (0, 1, 2):
            middle = truth.shape[axis] // 2
            cuts = [np.take(volume, middle, axis=axis) for volume in (truth, image, sd)]
            case = f"{name}_x{factor}_{'graph' if network is None else 'learned'}_{axis}.npy"
            np.save(out / case, np.stack(cuts).astype(np.float16))


def _sd(scene: Scene, appearance: Appearance, expectations: list[Expectation], noise: float) -> Image:
    found = estimate_uncertainty(
        appearance.objective, expectations, SLICE_AXIS, noise, SETTINGS.appearance, SETTINGS.seed
    )
    draws = [scene.render(draw) for draw in found.deviations.unbind(1)]
    variance = np.mean(np.stack(draws) ** 2, axis=0)
    if found.expected_sd is not None:
        variance = variance + scene.render(found.expected_sd) ** 2
    return np.asarray(np.sqrt(variance))


def _ssim(truth: Image, image: Image, mask: npt.NDArray[np.bool_]) -> float:
    try:
        return ssim(truth, image, mask)
    except ImportError:
        return float("nan")


if __name__ == "__main__":
    main()
