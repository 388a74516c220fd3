"""The simulated cases of real.py, images in and images out, on one device: to compare devices.

    python benchmarks/devices.py --scans DIR --device cuda [--prior learned] [--fast]

No BIDS dataset and no file of the app. Prints PSNR in the mask (T1w above 0), SSIM, how much of the truth the
90 % interval holds, seconds of the scaffold and of each target (with its uncertainty), and peak GPU memory;
headers are taken as they are. ``--out`` keeps the volumes that cuts.py draws.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
import torch

from atlasgs_bids.core.metrics import psnr_db, ssim
from atlasgs_bids.core.settings import LEARNED_CPU, LEARNED_FAST, CoreSettings, LearnedSettings
from atlasgs_bids.imaging.interpolated import mean_interpolated
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import anchor_of
from atlasgs_bids.restoration.result import TargetResult
from atlasgs_bids.restoration.scaffold import SessionScaffold, scaffold_of
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.simulation.degrade import Degradation
from atlasgs_bids.study.simulation.stack import simulated_stack

NORMAL_90 = 1.645


def main() -> None:
    parser = argparse.ArgumentParser(description="The core on one device, on simulated slices of real scans.")
    parser.add_argument("--scans", type=Path, required=True, help="folder with stroke/{T1,T2,FLAIR}.nii.gz")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--factors", type=int, nargs="+", default=[3, 5, 7])
    parser.add_argument("--targets", nargs="+", choices=["FLAIR", "T2"], default=["FLAIR", "T2"])
    parser.add_argument("--prior", choices=["graph", "learned"], default="graph")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=NUMBER", help="of LearnedSettings")
    parser.add_argument("--out", type=Path, help="folder for truth, cubic, result and sd of each case")
    options = parser.parse_args()
    network = LEARNED_CPU if options.device == "cpu" else LEARNED_FAST if options.fast else LearnedSettings()
    for text in options.set:
        name, number = text.split("=")
        network = dataclasses.replace(network, **{name: type(getattr(network, name))(number)})
    settings = RestorationSettings(
        device=options.device, prior=options.prior, core=CoreSettings(learned=network)
    )
    images, scaffold = prepare(options.scans, settings)
    for factor in options.factors:
        for name in options.targets:
            restore(scaffold, images[name], f"{name}_x{factor}", factor, settings, options.out)
    if options.device != "cpu":
        print(f"peak GPU memory {torch.cuda.max_memory_allocated(options.device) / 2**30:.2f} GiB")


def prepare(scans: Path, settings: RestorationSettings) -> tuple[dict[str, Volume], SessionScaffold]:
    """The scans, stage 1 and the graph."""
    images = {name: load_volume(scans / "stroke" / f"{name}.nii.gz") for name in ("T1", "FLAIR", "T2")}
    t1w = images["T1"]
    brain = Volume((t1w.data > 0).astype(np.float32), t1w.world_from_voxel)
    started = time.perf_counter()
    scaffold = scaffold_of(anchor_of(t1w, brain), settings, Progress.quiet())
    print(
        f"{settings.device}, torch {torch.__version__}: {len(scaffold.gaussians)} Gaussians, "
        f"{scaffold.anchor_psnr_db:.1f} dB, with the graph {time.perf_counter() - started:.1f} s",
        flush=True,
    )
    return images, scaffold


def restore(
    scaffold: SessionScaffold,
    truth: Volume,
    case: str,
    factor: int,
    settings: RestorationSettings,
    out: Path | None,
) -> None:
    """One case: simulated, restored, scored."""
    stack = simulated_stack(truth, Degradation("paper", 2, factor))
    started = time.perf_counter()
    restored = stack.restored(scaffold, settings)
    seconds = time.perf_counter() - started
    sd, mask, appearance = restored.sd, scaffold.anchor.foreground, restored.appearance
    assert sd is not None
    held = (np.abs(restored.sr - truth.data) <= NORMAL_90 * sd)[mask].mean()
    print(
        f"{case}: {psnr_db(truth.data, restored.sr, mask):.3f} dB, "
        f"SSIM {ssim(truth.data, restored.sr, mask):.4f}, 90 % interval {100 * held:.1f} %, "
        f"λ {appearance.regularization}, trust {appearance.trust}, {appearance.solution.n_steps} steps, "
        f"{seconds:.1f} s{_evidence(restored)}",
        flush=True,
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        cubic = mean_interpolated([own.interpolable for own in restored.stacks], restored.grid)
        half = [image.astype(np.float16) for image in (truth.data, cubic, restored.sr, sd)]
        path = out / f"{case}_{settings.prior}.npz"
        np.savez_compressed(path, truth=half[0], cubic=half[1], result=half[2], sd=half[3])


def _evidence(restored: TargetResult) -> str:
    (stack,) = restored.stacks
    if stack.anchor_gain is None or stack.contradicted is None:
        return ""
    contradicted = float(stack.contradicted.sum() / (stack.weights > 0).sum())
    return f", the anchor gains {100 * stack.anchor_gain:.1f} %, contradicted {100 * contradicted:.2f} %"


if __name__ == "__main__":
    main()
