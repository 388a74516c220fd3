"""Persistence of level sets: how high the blobs and holes of an image stand out of what surrounds them.

As the level falls from the highest intensity to the lowest, components of the set above it appear at a
maximum and merge at a saddle; holes appear at a saddle and are filled at a minimum. Persistence is the
intensity in between (Edelsbrunner 2002). Noise has many pairs of little persistence, anatomy few of much.
"""

import importlib.util

import numpy as np
import torch
from torch import Tensor


def missing() -> str | None:
    """Why it cannot be computed here."""
    return None if importlib.util.find_spec("gudhi") else "gudhi is not installed (pip install gudhi)"


def faint_persistence(images: Tensor, below: float) -> Tensor:
    """Persistence of the pairs with less than ``below``, summed, over the number of pixels; images (n, u, v).

    Differentiable: a pair's birth and death are the intensities of two pixels.
    """
    firsts, seconds = [], []
    n_pixels = images[0].numel()
    for position, image in enumerate(images.detach().float().cpu().numpy()):
        pairs = position * n_pixels + level_set_pairs(image)
        firsts.append(pairs[:, 0])
        seconds.append(pairs[:, 1])
    flat = images.flatten()
    born = flat[torch.from_numpy(np.concatenate(firsts)).to(flat.device)]
    died = flat[torch.from_numpy(np.concatenate(seconds)).to(flat.device)]
    persistence = born - died
    return persistence[persistence < below].sum() / images.numel()


def level_set_pairs(image: np.ndarray) -> np.ndarray:
    """(pairs, 2) flat indices of the pixels where components and holes of sets above a level begin and end.

    The highest component, which never ends, is not among them.
    """
    import gudhi  # noqa: PLC0415 - an optional library

    cubes = gudhi.CubicalComplex(top_dimensional_cells=-image.astype(np.float64))
    cubes.persistence()
    finite, _ = cubes.cofaces_of_persistence_pairs()
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *(np.asarray(p, np.int64) for p in finite)])
    # gudhi counts cells along the first axis first.
    rows, columns = pairs % image.shape[0], pairs // image.shape[0]
    return rows * image.shape[1] + columns
