"""One head, acquired three ways: how far tissue volumes and intensities depend on the protocol.

    python benchmarks/harmonisation.py --scans DIR [--device cuda --prior learned]

DIR/stroke holds T1.nii.gz, T2.nii.gz and FLAIR.nii.gz: brain-extracted, isotropic, one grid. Slices of 3 mm
with a box profile, of 5 mm with blurred flanks, of 7 mm with a Gaussian one; 1 % noise. The program has its
defaults: it knows neither profile nor position. Cubic gets the same position. Tissue is what a mixture of
three Gaussians (scikit-learn) makes of each image by itself. Spread: largest minus smallest of the three, in
per cent of the isotropic image's. Results: ``--out``/harmonisation.json.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from devices import prepare
from sklearn.mixture import GaussianMixture

from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.imaging.interpolated import mean_interpolated
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.restore import resolved, restore_stacks
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import place
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.simulation.degrade import Degradation, with_rician_noise
from atlasgs_bids.study.simulation.stack import simulated_stack

PROTOCOLS = (Degradation("box", 2, 3), Degradation("paper", 2, 5), Degradation("gaussian", 2, 7))
NOISE = 0.01
"""Standard deviation, of the target's 95th percentile."""
TISSUES = ("darkest", "middle", "brightest")

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Tissue volumes and intensities of one head, acquired three ways."
    )
    parser.add_argument("--scans", type=Path, required=True, help="folder with stroke/{T1,T2,FLAIR}.nii.gz")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prior", choices=["graph", "learned"], default="graph")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/harmonisation"))
    options = parser.parse_args()
    if not (options.scans / "stroke" / "T1.nii.gz").exists():
        print(f"skipped: {options.scans}/stroke has no T1.nii.gz; give the scans' folder with --scans")
        return 0
    settings = resolved(
        RestorationSettings(device=options.device, prior=options.prior, estimate_uncertainty=False)
    )
    images, scaffold = prepare(options.scans, settings)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in ("FLAIR", "T2"):
        truth = images[name]
        cubic, ours = zip(*(acquired(truth, way, scaffold, settings) for way in PROTOCOLS), strict=True)
        for by, seen in (("cubic", cubic), (options.prior, ours)):
            rows.append({"target": name, "by": by, **spread(truth.data, seen, scaffold.anchor.foreground)})
            print(json.dumps(rows[-1]), flush=True)
        (options.out / "harmonisation.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    return 0


def acquired(
    truth: Volume, way: Degradation, scaffold: SessionScaffold, settings: RestorationSettings
) -> tuple[Image, Image]:
    """Cubic interpolation and result, by default settings."""
    noise = NOISE * float(np.percentile(truth.data[scaffold.anchor.foreground], 95))
    clean = simulated_stack(truth, way)
    data = with_rician_noise(clean.acquired.data, noise, np.random.default_rng(way.factor))
    volume = Volume(data, clean.acquired.world_from_voxel)
    quiet = Progress.quiet()
    stack = place(clean.source, volume, scaffold.anchor, settings, quiet)
    result = restore_stacks([stack], scaffold, settings, quiet)
    return mean_interpolated([own.interpolable for own in result.stacks], result.grid), result.sr


def spread(truth: Image, images: Sequence[Image], mask: Mask) -> dict[str, Any]:
    """Of volumes and mean intensities of three tissues, per cent; and how alike the images are, dB."""
    labels = tissues(truth, mask)
    found = [tissues(image, mask) for image in images]
    volumes, intensities, bias = {}, {}, {}
    for number, name in enumerate(TISSUES):
        own = mask & (labels == number)
        sizes = np.array([(other[mask] == number).sum() for other in found]) / own.sum()
        means = np.array([image[own].mean() for image in images]) / truth[own].mean()
        volumes[name], intensities[name] = 100 * float(np.ptp(sizes)), 100 * float(np.ptp(means))
        bias[name] = 100 * float(np.abs(sizes - 1).max())
    pairs = [psnr_db(a, b, mask) for a, b in itertools.combinations(images, 2)]
    return {"volumes": volumes, "bias": bias, "intensities": intensities, "alike_db": float(np.mean(pairs))}


def tissues(image: Image, mask: Mask) -> npt.NDArray[np.int64]:
    """0, 1, 2 by brightness; the mixture starts at quantiles, so that it is the same each time."""
    values = image[mask].astype(np.float64)[:, None]
    start = np.quantile(values, [0.1, 0.5, 0.9])[:, None]
    mixture = GaussianMixture(3, means_init=start, random_state=0).fit(values[::7])
    rank = np.argsort(np.argsort(mixture.means_[:, 0]))
    labels = np.full(image.shape, -1)
    labels[mask] = rank[mixture.predict(values)]
    return labels


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: spread of each tissue's volume and intensity, by target and method."""
    lines = [
        "| target | by | volumes' spread, % | largest bias, % | intensities' spread, % | alike, dB |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            " / ".join(f"{row[key][name]:.1f}" for name in TISSUES)
            for key in ("volumes", "bias", "intensities")
        ]
        lines.append(f"| {row['target']} | {row['by']} | {' | '.join(cells)} | {row['alike_db']:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
