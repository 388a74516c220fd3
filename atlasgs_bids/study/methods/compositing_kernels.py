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


@numba.njit(cache=True, parallel=True, fastmath=_FASTMATH)
def composite(starts, means, conics, radii, opacities, features, shape, limits):
    """The images; limits are the largest and the least alpha, and the transmittance at which a pixel ends."""
    most, least, opaque = limits
    n_features = features.shape[1]
    images = np.zeros((len(starts) - 1, shape[0], shape[1], n_features), np.float32)
    for plane in numba.prange(len(starts) - 1):
        left = np.ones(shape, np.float32)
        for pair in range(starts[plane], starts[plane + 1]):
            u_low, u_high = _box(means[pair, 0], radii[pair, 0], shape[0])
            v_low, v_high = _box(means[pair, 1], radii[pair, 1], shape[1])
            for u in range(u_low, u_high):
                for v in range(v_low, v_high):
                    if left[u, v] <= opaque:
                        continue
                    alpha = opacities[pair] * _falloff(conics, pair, u - means[pair, 0], v - means[pair, 1])
                    alpha = min(alpha, most)
                    if alpha < least:
                        continue
                    behind = left[u, v] * (1 - alpha)
                    if behind <= opaque:
                        left[u, v] = 0
                        continue
                    weight = alpha * left[u, v]
                    for k in range(n_features):
                        images[plane, u, v, k] += weight * features[pair, k]
                    left[u, v] = behind
    return images


@numba.njit(cache=True, parallel=True, fastmath=_FASTMATH)
def composite_gradients(starts, means, conics, radii, opacities, features, upstream, whole, limits):
    """Gradients of Σ upstream · images by means, conics, opacities and features, as four arrays.

    Once more from the front: what lies behind a Gaussian is the whole, Σ upstream · image of each pixel
    (planes, u, v), less what has been added so far.
    """
    most, least, opaque = limits
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
                    if left[u, v] <= opaque:
                        continue
                    du, dv = u - means[pair, 0], v - means[pair, 1]
                    falloff = _falloff(conics, pair, du, dv)
                    unbounded = opacities[pair] * falloff
                    alpha = min(unbounded, most)
                    if alpha < least:
                        continue
                    behind = left[u, v] * (1 - alpha)
                    if behind <= opaque:
                        left[u, v] = 0
                        continue
                    weight, along = alpha * left[u, v], np.float32(0)
                    for k in range(n_features):
                        g = upstream[plane, u, v, k]
                        by_features[pair, k] += weight * g
                        along += g * features[pair, k]
                    still[u, v] -= weight * along
                    by_alpha = left[u, v] * along - still[u, v] / (1 - alpha)
                    left[u, v] = behind
                    if unbounded <= most:
                        by_opacities[pair] += falloff * by_alpha
                        by_exponent = -unbounded * by_alpha
                        by_conics[pair, 0] += np.float32(0.5) * du * du * by_exponent
                        by_conics[pair, 1] += du * dv * by_exponent
                        by_conics[pair, 2] += np.float32(0.5) * dv * dv * by_exponent
                        by_means[pair, 0] -= (conics[pair, 0] * du + conics[pair, 1] * dv) * by_exponent
                        by_means[pair, 1] -= (conics[pair, 1] * du + conics[pair, 2] * dv) * by_exponent
    return by_means, by_conics, by_opacities, by_features
