"""What a target that is already restored brings the next one as a second guide of the graph.

    python benchmarks/second_guide.py --scans DIR

The columns of benchmarks/regularization.py: FLAIR and T2w in thick slices on one lattice, position and
profile known, λ by cross-validation. The other target, as restored by itself or, as a bound, in truth, joins
the anchor as a feature that has to be alike, with a weight of 1, ½ and ¼ of the anchor's. Error is that at
voxels that were left out, by generalised cross-validation.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from regularization import SETTINGS, Case, make_case
from scipy import ndimage
from torch import Tensor

from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.core.priors.graph import GraphLaplacian, anchor_features
from atlasgs_bids.core.priors.quadratic import QuadraticPrior
from atlasgs_bids.core.regularization import balance
from atlasgs_bids.core.settings import CoreSettings
from atlasgs_bids.imaging.structure import edge_ellipsoids

WEIGHTS = (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class Fitted:
    """A target on the lattice, and how well it is known."""

    image: np.ndarray
    psnr_db: float
    error: float


def fitted(case: Case, prior: QuadraticPrior, noise_percent: float) -> Fitted:
    clean = case.clean
    noise = np.random.default_rng(5).standard_normal(tuple(clean.slices.shape))
    slices = clean.slices + torch.from_numpy(noise_percent / 100 * case.unit * noise).float()
    found = balance(replace(case.objective, terms=(replace(clean, slices=slices),), prior=prior), SETTINGS)
    image = case.render.forward(found.solution.value).numpy()
    return Fitted(image, psnr_db(case.truth, image, case.mask), found.predicted_error**0.5)


def guided_by(case: Case, images: Sequence[tuple[np.ndarray, float]]) -> QuadraticPrior:
    """The program's graph of the case's anchor, with features of each further image by its weight."""
    settings, corrected = CoreSettings().graph, case.anchor.corrected
    means = case.gaussians.means_mm
    index = tuple(means.round().long().numpy().T)  # the lattice is the voxels of an identity affine
    features = [of_image(corrected.volume.data, corrected.scale, index)]
    for image, weight in images:
        scale = float(np.percentile(image[case.mask], 99))
        features.append(weight * of_image(image, scale, index))
    ellipsoids = edge_ellipsoids(corrected.volume, settings.edge_slope * corrected.scale, means.numpy())
    return GraphLaplacian(
        case.gaussians, torch.cat(features, 1), settings, ellipsoids=torch.from_numpy(ellipsoids)
    )


def of_image(image: np.ndarray, scale: float, index: tuple[np.ndarray, ...]) -> Tensor:
    amplitude, local_mean = (
        torch.from_numpy(np.ascontiguousarray(own[index])).float()
        for own in (image, ndimage.gaussian_filter(image, 1.0))
    )
    return anchor_features(amplitude, local_mean, scale, CoreSettings().graph)


def main() -> None:
    parser = argparse.ArgumentParser(description="A second guide: what it brings, and what would be known.")
    parser.add_argument("--scans", type=Path, required=True, help="folder with stroke/{T1,T2,FLAIR}.nii.gz")
    parser.add_argument("--factors", type=int, nargs="+", default=[3, 5, 7])
    parser.add_argument("--noise", type=float, default=1.0, help="percent")
    parser.add_argument("--side", type=int, default=64, help="of the column, in voxels")
    options = parser.parse_args()
    print("case | guide | weight | PSNR, dB | error left out")
    for factor in options.factors:
        pair = {
            name: make_case(options.scans / "stroke", name, factor, "true", options.side)
            for name in ("FLAIR", "T2")
        }
        alone = {name: fitted(case, guided_by(case, []), options.noise) for name, case in pair.items()}
        for name, other in (("FLAIR", "T2"), ("T2", "FLAIR")):
            case = pair[name]
            print(f"{case.name} | T1w | | {alone[name].psnr_db:.2f} | {alone[name].error:.3f}", flush=True)
            for kind, image in (("restored", alone[other].image), ("truth", pair[other].truth)):
                for weight in WEIGHTS:
                    found = fitted(case, guided_by(case, [(image, weight)]), options.noise)
                    print(f"{case.name} | + {other} {kind} | {weight:g}", end="")
                    print(f" | {found.psnr_db:.2f} | {found.error:.3f}", flush=True)


if __name__ == "__main__":
    main()
