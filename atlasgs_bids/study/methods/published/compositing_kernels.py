"""Front-to-back compositing of 2-D Gaussians on the CPU (numba); conditional.py calls it.

Pairs of a plane lie one after the other, the nearest first: starts (planes + 1,), means (pairs, 2), conics
(pairs, 3), radii (pairs, 2), opacities (pairs,), features (pairs, k), images (planes, u, v, k). Each thread
owns whole planes, and with them their pairs: the same input gives the same bits on any number of threads.
"""

import math

import numba
import numpy as np

_FASTMATH = {"contract", "nsz", "arcp", "reassoc"}
_inline = numba.njit(cache=True, fastmath=_FASTMATH, inline="always")


@_inline
def _box(mean, radius, shape):
    """First pixel of the pair's box along one axis, and the one after the last."""
    return max(0, math.floor(mean - radius)), min(shape, math.ceil(mean + radius) + 1)


@_inline
def _falloff(conics, pair, du, dv):
    """The 2-D Gaussian at an offset from its centre."""
    return math.exp(
        np.float32(-0.5) * (conics[pair, 0] * du * du + conics[pair, 2] * dv * dv) - conics[pair, 1] * du * dv
    )


@_inline
def _step(left, unbounded, limits):
    """Alpha of a pair in a pixel, 0: not drawn; and the transmittance behind it, 0: the pixel ends."""
    most, least, opaque = limits
    alpha, behind = min(unbounded, most), left
    if alpha < least:
        alpha = np.float32(0)
    else:
        behind = left * (1 - alpha)
        if behind <= opaque:
            alpha, behind = np.float32(0), np.float32(0)
    return alpha, behind


@numba.njit(cache=True, parallel=True, fastmath=_FASTMATH)
def composite(starts, means, conics, radii, opacities, features, shape, limits):
    """The images; limits are the largest and the least alpha, and the transmittance at which a pixel ends."""
    n_features = features.shape[1]
    images = np.zeros((len(starts) - 1, shape[0], shape[1], n_features), np.float32)
    for plane in numba.prange(len(starts) - 1):
        left = np.ones(shape, np.float32)
        for pair in range(starts[plane], starts[plane + 1]):
            u_low, u_high = _box(means[pair, 0], radii[pair, 0], shape[0])
            v_low, v_high = _box(means[pair, 1], radii[pair, 1], shape[1])
            for u in range(u_low, u_high):
                for v in range(v_low, v_high):
                    if left[u, v] == 0:
                        continue
                    falloff, before = (
                        _falloff(conics, pair, u - means[pair, 0], v - means[pair, 1]),
                        left[u, v],
                    )
                    alpha, left[u, v] = _step(before, opacities[pair] * falloff, limits)
                    if alpha == 0:
                        continue
                    weight = alpha * before
                    for k in range(n_features):
                        images[plane, u, v, k] += weight * features[pair, k]
    return images


@numba.njit(cache=True, parallel=True, fastmath=_FASTMATH)
def composite_gradients(starts, means, conics, radii, opacities, features, upstream, whole, limits):
    """Gradients of Σ upstream · images by means, conics, opacities and features, as four arrays.

    Once more from the front: what lies behind a Gaussian is the whole, Σ upstream · image of each pixel
    (planes, u, v), less what has been added so far.
    """
    most = limits[0]
    n_pairs, n_features = features.shape
    by_means, by_conics = np.zeros((n_pairs, 2), np.float32), np.zeros((n_pairs, 3), np.float32)
    by_opacities, by_features = np.zeros(n_pairs, np.float32), np.zeros((n_pairs, n_features), np.float32)
    shape = whole.shape[1:]
    for plane in numba.prange(len(starts) - 1):
        left, still = np.ones(shape, np.float32), whole[plane].copy()
        for pair in range(starts[plane], starts[plane + 1]):
            u_low, u_high = _box(means[pair, 0], radii[pair, 0], shape[0])
            v_low, v_high = _box(means[pair, 1], radii[pair, 1], shape[1])
            for u in range(u_low, u_high):
                for v in range(v_low, v_high):
                    if left[u, v] == 0:
                        continue
                    du, dv = u - means[pair, 0], v - means[pair, 1]
                    falloff = _falloff(conics, pair, du, dv)
                    unbounded, before = opacities[pair] * falloff, left[u, v]
                    alpha, left[u, v] = _step(before, unbounded, limits)
                    if alpha == 0:
                        continue
                    weight, along = alpha * before, np.float32(0)
                    for k in range(n_features):
                        g = upstream[plane, u, v, k]
                        by_features[pair, k] += weight * g
                        along += g * features[pair, k]
                    still[u, v] -= weight * along
                    by_alpha = before * along - still[u, v] / (1 - alpha)
                    if unbounded <= most:
                        by_opacities[pair] += falloff * by_alpha
                        by_exponent = -unbounded * by_alpha
                        by_conics[pair, 0] += np.float32(0.5) * du * du * by_exponent
                        by_conics[pair, 1] += du * dv * by_exponent
                        by_conics[pair, 2] += np.float32(0.5) * dv * dv * by_exponent
                        by_means[pair, 0] -= (conics[pair, 0] * du + conics[pair, 1] * dv) * by_exponent
                        by_means[pair, 1] -= (conics[pair, 1] * du + conics[pair, 2] * dv) * by_exponent
    return by_means, by_conics, by_opacities, by_features
