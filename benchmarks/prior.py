"""The learned prior alone, on the lattice of the slices: simulated from real scans, against the truth.

    python benchmarks/prior.py --scans DIR --device cuda [--preset fast] [--cases FLAIRx3] [--set n_cycles=4]

DIR/stroke holds T1, FLAIR and T2 (.nii.gz) on one isotropic grid. The slices are observed as the app does
it, and the T1w is what its Gaussians render. PSNR (dB) and SSIM where the T1 is above 0:
cubic B-spline at the true slice centres, the network's prediction p, and the x with the least
‖A x − y‖²_W + μ ‖x − p‖², which stands for the solve around it. ``held`` is how much of the truth
lies in the predicted 90 % interval.
"""

import argparse
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from atlasgs_bids.core.metrics import psnr_db, ssim
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.priors.learned.prior import Stack, predict, train_prior
from atlasgs_bids.core.settings import LEARNED_CPU, LEARNED_FAST, CoreSettings, LearnedSettings
from atlasgs_bids.core.solvers import conjugate_gradient
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import anchor_of
from atlasgs_bids.restoration.observation import observe_placed
from atlasgs_bids.restoration.scaffold import SessionScaffold, scaffold_of
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.simulation.degrade import Degradation
from atlasgs_bids.study.simulation.stack import simulated_stack

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
    cubic: npt.NDArray[np.float32]
    """B-spline interpolation of the slices at the true centres."""
    first_cell: int
    """Cell of the lattice along the slice axis at the truth's first voxel."""

    def on_truth(self, image: torch.Tensor) -> npt.NDArray[np.float32]:
        n = self.truth.shape[SLICE_AXIS]
        return image[:, :, self.first_cell : self.first_cell + n].cpu().numpy()


def simulate(truth: Volume, scaffold: SessionScaffold, factor: int, settings: RestorationSettings) -> Case:
    """Slices of ``factor`` voxels, and the anchor on their lattice."""
    simulated = simulated_stack(truth, Degradation("paper", SLICE_AXIS, factor))
    placed = simulated.placed(scaffold, settings)
    own = observe_placed(placed, scaffold.anchor, scaffold.gaussians, simulated.known_to(settings))
    truth_from_lattice = np.linalg.inv(truth.world_from_voxel) @ own.world_from_lattice.numpy()
    first = round(-float(truth_from_lattice[SLICE_AXIS, 3]))
    n = min(truth.data.shape[SLICE_AXIS], own.lattice_shape[SLICE_AXIS] - first)
    return Case(
        stack=Stack(own, own.splat.forward(scaffold.gaussians.amplitudes)),
        truth=truth.data[:, :, :n],
        mask=scaffold.anchor.foreground[:, :, :n],
        cubic=resample(placed.acquired, truth.grid)[:, :, :n],
        first_cell=first,
    )


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
    run = RestorationSettings(device=options.device, core=CoreSettings(learned=settings))
    images = {
        name: load_volume(options.scans / "stroke" / f"{name}.nii.gz") for name in ("T1", "FLAIR", "T2")
    }
    brain = Volume((images["T1"].data > 0).astype(np.float32), images["T1"].world_from_voxel)
    scaffold = scaffold_of(anchor_of(images["T1"], brain), run, Progress.quiet())
    on_gpu = options.device != "cpu"
    print(f"{options.device}, torch {torch.__version__}, {torch.get_num_threads()} threads, {settings}")
    if on_gpu:
        started = time.perf_counter()
        case = simulate(images["T2"], scaffold, 7, run)
        train_prior([case.stack], dataclasses.replace(settings, n_cycles=1, n_cycle_steps=2), 0)
        torch.cuda.synchronize(options.device)
        print(f"first use of the device, not in the seconds below: {time.perf_counter() - started:.1f} s")
    print("case     cubic         p             consistent    train s  predict s  GiB   held  RMS/sd")
    for label in options.cases:
        name, factor = label.split("x")
        case = simulate(images[name], scaffold, int(factor), run)
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
            for x in (case.cubic, image, case.on_truth(consistent(case.stack.observation, prediction.image)))
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
