"""The simulated cases of real.py through the core alone, on one device: to compare devices with each other.

    python benchmarks/devices.py --scans DIR --device cuda [--prior learned] [--fast]

Needs torch, scipy, nibabel and jaxtyping only, so it runs where the app cannot be installed. Prints PSNR in
the mask (T1w above 0), SSIM where scikit-image is at hand, how much of the truth the 90 % interval holds,
seconds of each stage and peak GPU memory; headers are taken as they are. ``--out`` keeps the volumes that
cuts.py draws.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from atlasgs_bids.core.metrics import psnr_db, ssim
from atlasgs_bids.core.settings import LEARNED_CPU, LEARNED_FAST, CoreSettings, LearnedSettings
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.study.restoration import (
    Restored,
    StudyScaffold,
    restore_simulated,
    restored_sd,
    study_scaffold,
)

Image = npt.NDArray[np.float32]
SETTINGS = CoreSettings()
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
    network = None
    if options.prior == "learned":
        network = (
            LEARNED_CPU if options.device == "cpu" else LEARNED_FAST if options.fast else SETTINGS.learned
        )
        for text in options.set:
            name, number = text.split("=")
            network = dataclasses.replace(network, **{name: type(getattr(network, name))(number)})
    images, scaffold = prepare(options.scans, options.device)
    for factor in options.factors:
        for name in options.targets:
            restore(scaffold, images[name], f"{name}_x{factor}", factor, network, options.out)
    if options.device != "cpu":
        print(f"peak GPU memory {torch.cuda.max_memory_allocated(options.device) / 2**30:.2f} GiB")


def prepare(scans: Path, device: str) -> tuple[dict[str, Image], StudyScaffold]:
    """The scans, stage 1 and the graph."""
    volumes = {name: load_volume(scans / "stroke" / f"{name}.nii.gz") for name in ("T1", "FLAIR", "T2")}
    images = {name: volume.data for name, volume in volumes.items()}
    started = time.perf_counter()
    scaffold = study_scaffold(
        images["T1"], images["T1"] > 0, volumes["T1"].world_from_voxel, SETTINGS, device
    )
    print(
        f"{device}, torch {torch.__version__}: {len(scaffold.gaussians)} Gaussians, "
        f"{scaffold.n_steps} steps, {scaffold.anchor_psnr_db:.1f} dB, "
        f"with the graph {time.perf_counter() - started:.1f} s",
        flush=True,
    )
    return images, scaffold


def restore(
    scaffold: StudyScaffold,
    truth: Image,
    case: str,
    factor: int,
    network: LearnedSettings | None,
    out: Path | None,
) -> None:
    """One case: simulated, restored by the graph (no network) or the learned prior, scored."""
    started = time.perf_counter()
    restored = restore_simulated(scaffold, truth, factor, network, SETTINGS)
    seconds = time.perf_counter() - started
    sd = restored_sd(restored, scaffold, SETTINGS)
    mask, appearance = scaffold.mask, restored.appearance
    covered = (np.abs(restored.image - truth) <= NORMAL_90 * sd)[mask].mean()
    print(
        f"{case}: {psnr_db(truth, restored.image, mask):.3f} dB, "
        f"SSIM {_ssim(truth, restored.image, mask):.4f}, 90 % interval {100 * covered:.1f} %, "
        f"λ {appearance.regularization}, trust {appearance.trust}, {appearance.solution.n_steps} steps, "
        f"{seconds:.1f} s{_evidence(restored)}",
        flush=True,
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        name = f"{case}_{'graph' if network is None else 'learned'}.npz"
        half = [image.astype(np.float16) for image in (truth, restored.cubic, restored.image, sd)]
        np.savez_compressed(out / name, truth=half[0], cubic=half[1], result=half[2], sd=half[3])


def _evidence(restored: Restored) -> str:
    found = None if restored.expected is None else restored.expected.expectation.evidence
    if found is None:
        return ""
    contradicted = float(found.contradicted.sum() / restored.appearance.objective.terms[0].weights.sum())
    return f", the anchor gains {100 * found.anchor_gain:.1f} %, contradicted {100 * contradicted:.2f} %"


def _ssim(truth: Image, image: Image, mask: npt.NDArray[np.bool_]) -> float:
    try:
        return ssim(truth, image, mask)
    except ImportError:
        return float("nan")


if __name__ == "__main__":
    main()
