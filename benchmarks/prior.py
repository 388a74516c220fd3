"""The learned prior alone, on the voxel grid: thick slices simulated from real scans, against the truth.

    python benchmarks/prior.py --scans DIR --device cuda [--preset fast] [--cases FLAIRx3] [--set n_cycles=4]

DIR/stroke holds T1, FLAIR and T2 (.nii.gz) on one isotropic grid. PSNR (dB) and SSIM where the T1 is above 0:
cubic B-spline at the true slice centres, the network's prediction p, and the x with the least
‖A x − y‖²_W + μ ‖x − p‖², which stands for the solve around it. ``held`` is how much of the truth
lies in the predicted 90 % interval. Needs torch, scipy, scikit-image, nibabel and jaxtyping only.
"""

import argparse
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import integrate, ndimage

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.metrics import psnr_db, ssim
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.operators import Identity
from atlasgs_bids.core.priors.learned.prior import Stack, predict, train_prior
from atlasgs_bids.core.settings import LEARNED_CPU, LEARNED_FAST, LearnedSettings
from atlasgs_bids.core.solvers import conjugate_gradient
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.study.simulation.degrade import simulate_thick_slices, true_slice_profile

PRESETS = {"default": LearnedSettings(), "fast": LEARNED_FAST, "cpu": LEARNED_CPU}
CASES = ["FLAIRx3", "FLAIRx5", "FLAIRx7", "T2x3", "T2x5", "T2x7"]
SLICE_AXIS = 2
PRIOR_WEIGHT = 0.05
"""μ, beside slices without noise."""
NORMAL_90 = 1.645


@dataclass(frozen=True)
class Case:
    """A simulated stack and the truth, cut to the voxels that the lattice covers."""

    stack: Stack
    truth: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    first_cell: int
    """Cell of the lattice along the slice axis at the truth's first voxel."""

    def on_truth(self, image: torch.Tensor) -> npt.NDArray[np.float32]:
        n = self.truth.shape[SLICE_AXIS]
        return image[:, :, self.first_cell : self.first_cell + n].cpu().numpy()


def simulate(
    truth: npt.NDArray[np.float32], anchor: npt.NDArray[np.float32], factor: int, device: str
) -> Case:
    """Slices of ``factor`` voxels of 1 mm, and the anchor on their lattice."""
    offsets_mm, density = true_slice_profile(float(factor), 1.0)
    cumulative = integrate.cumulative_trapezoid(density, offsets_mm, initial=0)
    data, _ = simulate_thick_slices(truth, np.eye(4), SLICE_AXIS, factor)
    samplings = slice_sampling(
        (data.shape[0], data.shape[1], data.shape[2]),
        (1.0, 1.0, float(factor)),
        SLICE_AXIS,
        (offsets_mm, cumulative / cumulative[-1]),
        1.0,
    )
    acquisition = AcquisitionOperator(samplings, device)
    step = float(acquisition.native_from_lattice[2, 2])
    # Voxel 0 of the truth lies (factor − 1) / 2 voxels below the centre of slice 0.
    first = round((-(factor - 1) / 2 / factor - float(acquisition.native_from_lattice[2, 3])) / step)
    n = min(truth.shape[2], acquisition.shape_in[2] - first)
    support = ndimage.binary_dilation(anchor > 0, iterations=2)
    on_lattice = []
    for image in (anchor, support.astype(np.float32)):
        lattice = torch.zeros(acquisition.shape_in)
        lattice[:, :, first : first + n] = torch.from_numpy(image[:, :, :n])
        on_lattice.append(lattice.to(device))
    weights = (acquisition.forward(on_lattice[1]) > 0.05).float()
    observation = LatticeObservation(
        torch.from_numpy(data).to(device),
        weights,
        SLICE_AXIS,
        acquisition=acquisition,
        splat=Identity(acquisition.shape_in),
        world_from_lattice=torch.eye(4, dtype=torch.float64),
    )
    return Case(Stack(observation, on_lattice[0]), truth[:, :, :n], (anchor > 0)[:, :, :n], first)


def cubic(case: Case) -> npt.NDArray[np.float32]:
    """B-spline interpolation of the slices at the true centres."""
    lattice = case.stack.observation.acquisition.native_from_lattice
    n_x, n_y, n_z = case.truth.shape
    slice_index = (case.first_cell + np.arange(n_z)) * float(lattice[2, 2]) + float(lattice[2, 3])
    grid = np.meshgrid(np.arange(n_x), np.arange(n_y), slice_index, indexing="ij")
    slices = case.stack.observation.slices.cpu().numpy()
    return np.asarray(ndimage.map_coordinates(slices, np.stack(grid), order=3, mode="nearest"))


def consistent(observation: LatticeObservation, image: torch.Tensor) -> torch.Tensor:
    """x with min ‖A x − y‖²_W + μ ‖x − p‖²."""
    A, W = observation.acquisition, observation.weights

    def normal(x: torch.Tensor) -> torch.Tensor:
        return A.adjoint(W * A.forward(x)) + PRIOR_WEIGHT * x

    right_side = A.adjoint(W * observation.slices) + PRIOR_WEIGHT * image
    return conjugate_gradient(normal, right_side, start=image, tolerance=1e-5).value


def main() -> None:
    parser = argparse.ArgumentParser(description="The learned prior on simulated slices of real scans.")
    parser.add_argument("--scans", type=Path, required=True, help="folder with stroke/{T1,T2,FLAIR}.nii.gz")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=NUMBER", help="of LearnedSettings")
    parser.add_argument("--psnr-only", action="store_true", help="SSIM takes seconds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = PRESETS[options.preset]
    for text in options.set:
        name, number = text.split("=")
        settings = dataclasses.replace(settings, **{name: type(getattr(settings, name))(number)})
    images = {
        name: load_volume(options.scans / "stroke" / f"{name}.nii.gz").data for name in ("T1", "FLAIR", "T2")
    }
    on_gpu = options.device != "cpu"
    print(f"{options.device}, torch {torch.__version__}, {torch.get_num_threads()} threads, {settings}")
    if on_gpu:
        started = time.perf_counter()
        case = simulate(images["T2"], images["T1"], 7, options.device)
        train_prior([case.stack], dataclasses.replace(settings, n_cycles=1, n_cycle_steps=2), 0)
        torch.cuda.synchronize(options.device)
        print(f"first use of the device, not in the seconds below: {time.perf_counter() - started:.1f} s")
    print("case     cubic         p             consistent    train s  predict s  GiB   held  RMS/sd")
    for label in options.cases:
        name, factor = label.split("x")
        case = simulate(images[name], images["T1"], int(factor), options.device)
        if on_gpu:
            torch.cuda.synchronize(options.device)
            torch.cuda.reset_peak_memory_stats(options.device)
        started = time.perf_counter()
        prior = train_prior([case.stack], settings, options.seed)
        if on_gpu:
            torch.cuda.synchronize(options.device)
        trained = time.perf_counter()
        prediction = predict(prior, case.stack)
        image, sd = case.on_truth(prediction.image), case.on_truth(prediction.sd)
        predicted = time.perf_counter()
        scores = [
            f"{psnr_db(case.truth, x, case.mask):.2f}"
            + ("" if options.psnr_only else f" / {ssim(case.truth, x, case.mask):.3f}")
            for x in (cubic(case), image, case.on_truth(consistent(case.stack.observation, prediction.image)))
        ]
        error = (image - case.truth)[case.mask].astype(np.float64)
        expected = sd[case.mask].astype(np.float64)
        held = np.mean(np.abs(error) < NORMAL_90 * expected)
        ratio = np.sqrt(np.mean(error**2) / np.mean(expected**2))
        peak_gib = torch.cuda.max_memory_allocated(options.device) / 2**30 if on_gpu else float("nan")
        print(
            f"{label:8} {scores[0]} {scores[1]} {scores[2]}  {trained - started:6.1f} "
            f"{predicted - trained:9.2f} {peak_gib:6.2f} {held:6.3f} {ratio:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
