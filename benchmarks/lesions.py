"""Safety of lesions on phantoms: what only the target shows, what only the anchor shows, an anchor of noise.

    python benchmarks/lesions.py --device cuda --prior learned

Slices of 5 voxels with 1 % noise. The lesion, a ball of 12 or 10 voxels with a soft border, is in the target
alone; another of 10 voxels, as dark as CSF, is in the anchor alone. Contrast and volume of the first are over
those of the truth; the leak of the second is in parts of the contrast that it would have in the target.
"""

import argparse
import dataclasses
import time

import numpy as np

from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.core.settings import LEARNED_CPU, LEARNED_FAST, CoreSettings, LearnedSettings
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import anchor_of
from atlasgs_bids.restoration.result import TargetResult, mean_interpolated
from atlasgs_bids.restoration.scaffold import scaffold_of
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.simulation.degrade import Degradation
from atlasgs_bids.study.simulation.phantom import (
    TARGETS,
    Phantom,
    Structure,
    kept_contrast,
    kept_volume,
    leaked_contrast,
    make_phantom,
    own_part,
    seen_beyond,
)
from atlasgs_bids.study.simulation.stack import simulated_stack

PRESETS = {"default": LearnedSettings(), "fast": LEARNED_FAST, "cpu": LEARNED_CPU}
FACTOR = 5
SHAPE = (64, 64, 50)
LESION_AT, DECOY_AT = (18.3, 18.6, 21.4), (45.2, 44.7, 28.8)
"""Not on the grid of voxels, nor on that of the slices."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Safety of lesions on phantoms.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prior", choices=["graph", "learned"], default="learned")
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=NUMBER", help="of LearnedSettings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    settings = PRESETS[options.preset]
    for text in options.set:
        name, number = text.split("=")
        settings = dataclasses.replace(settings, **{name: type(getattr(settings, name))(number)})
    run = RestorationSettings(
        device=options.device,
        prior=options.prior,
        estimate_uncertainty=False,
        core=CoreSettings(learned=settings),
    )
    print("phantom; cubic: dB, contrast, volume, leak; result: the same, prior_disagrees, anchor_gain")
    for seed in options.seeds:
        for contrast in TARGETS:
            for shared, radius in ((0.5, 6.0), (1.0, 5.0)):
                lesion, decoy = Structure(LESION_AT, radius), Structure(DECOY_AT, 5.0)
                phantom = make_phantom(
                    seed, contrast, SHAPE, shared_texture=shared, lesion=lesion, decoy=decoy
                )
                report(f"{contrast} seed {seed} shared {shared}", phantom, run)
            phantom = make_phantom(seed, contrast, SHAPE, lesion=Structure(LESION_AT, 6.0))
            noise = np.random.default_rng(seed).uniform(100, 900, SHAPE).astype(np.float32)
            noisy = dataclasses.replace(phantom, anchor=noise)
            report(f"{contrast} seed {seed} noise anchor", noisy, run)
            plain = make_phantom(seed, contrast, SHAPE)
            report(f"{contrast} seed {seed} ordinary", plain, run)


def report(label: str, phantom: Phantom, settings: RestorationSettings) -> None:
    """One line: the cubic interpolation and the result."""
    inside = np.ones(SHAPE, np.float32)
    noise_sd = 0.01 * float(phantom.truth.max())
    noise = noise_sd * np.random.default_rng(7).standard_normal((*SHAPE[:2], SHAPE[2] // FACTOR))
    started = time.perf_counter()
    anchor = anchor_of(seen_beyond(phantom.anchor), seen_beyond(inside))
    scaffold = scaffold_of(anchor, settings, Progress.quiet())
    truth = Volume(phantom.truth, np.eye(4))
    stack = simulated_stack(truth, Degradation("paper", 2, FACTOR), noise.astype(np.float32))
    restored = stack.restored(scaffold, settings)
    seconds = time.perf_counter() - started
    cubic = mean_interpolated([own.interpolable for own in restored.stacks], restored.grid)
    parts = [f"{label:26}"]
    for image in (own_part(cubic), own_part(restored.sr)):
        parts.append(f"{psnr_db(phantom.truth, image, inside > 0):6.2f}")
        if phantom.lesion is not None:
            parts.append(f"{kept_contrast(phantom, image):6.3f} {kept_volume(phantom, image):6.3f}")
        if phantom.decoy is not None:
            parts.append(f"{leaked_contrast(phantom, image):6.3f}")
        parts.append("  ")
    print(*parts, _evidence(restored), f"{seconds:.1f} s", flush=True)


def _evidence(restored: TargetResult) -> str:
    (stack,) = restored.stacks
    gain = "" if stack.anchor_gain is None else f" {stack.anchor_gain:.3f}"
    return f"{restored.prior_disagrees:.4f}{gain}"


if __name__ == "__main__":
    main()
