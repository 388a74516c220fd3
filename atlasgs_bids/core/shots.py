"""The likeliest movement between the shots of a stack, by evidence and by what is believed of heads.

A head lies in most shots where it lay in the others of a pass through the stack (a packet), else some
millimetres away; and so does a packet relative to its stack. One slice alone hardly tells some motions: a
position of its own is believed where it raises the evidence by more than its seven parameters cost
(Laplace's approximation).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int

from atlasgs_bids.core.descent import descended, one_by_one, positive_inverse
from atlasgs_bids.core.movement import N_PARAMETERS, MovementEvidence

Array = npt.NDArray[np.float64]

_SPREAD = np.array([2.0] * 6 + [0.2])
"""Standard deviation of a shot's parameters about its packet's: 2 mm each way, 2 % of gain."""
_PACKET_SPREAD = np.array([2.0] * 7)
"""The same of a packet's about its stack's: its gain may be 20 % off."""
_PIXELS_PER_SAMPLE = 1.0
"""What the model does not explain is alike in neighbours: so many pixels count as one that is independent."""
_ENOUGH_MM, _MOST_STEPS = 0.03, 15
_LEAST_CURVATURE = 0.003
_ROUNDS = 5


@dataclass(frozen=True)
class FoundMovement:
    """Where the head was in each shot, relative to where its stack lies."""

    parameters: Float[np.ndarray, "shots 7"]
    """Those of MovementEvidence."""
    moves: Bool[np.ndarray, " shots"]
    """Whether the evidence asks for a position of its own."""
    gain: float
    """Twice the logarithm of how much likelier this is than a head at rest; 0: at rest."""


def find_movement(
    evidence: MovementEvidence,
    shot_of: Sequence[int],
    packet_of: Sequence[int],
    starts: Sequence[Float[np.ndarray, "shots 7"]],
    may_move: Bool[np.ndarray, " shots"] | None = None,
) -> FoundMovement:
    """The likeliest movement; ``shot_of`` each slice, ``packet_of`` each shot, from the best of the starts.

    The first start is a head at rest. ``may_move``: the shots that show enough for a position of their own.
    """
    shots, packets = np.asarray(shot_of), np.asarray(packet_of)
    may_move = np.ones(len(packets), bool) if may_move is None else may_move
    values = [evidence.value_and_gradient(start[shots])[0] for start in starts]
    start = starts[int(np.argmin(values))]
    # So that J is −2 log likelihood of as many samples as are independent.
    unit = min(values) * _PIXELS_PER_SAMPLE / evidence.n_pixels.sum()
    curvature = evidence.curvature(start[shots]) / unit
    problem = _Problem(evidence, shots, unit, curvature)
    same = np.equal.outer(packets, packets)
    centred = np.eye(len(packets)) - same / same.sum(1)
    precision = centred[:, :, None] / _SPREAD**2 + (same / same.sum(1) ** 2)[:, :, None] / _PACKET_SPREAD**2
    alone = np.arange(len(packets))
    x = problem.searched(alone, start, precision, alone >= 0)
    blocks = problem.grouped(alone, len(alone))[alone, :, alone]
    blocks = np.stack([_positive(block) for block in blocks])
    common, moves = _consensus(x, packets, blocks, np.einsum("stk,tk->sk", precision, x), may_move)
    # Once more, with one position for all shots of a packet that do not move by themselves.
    n_packets, moving = len(common), np.flatnonzero(moves)
    group_of = packets.copy()
    group_of[moving] = n_packets + np.arange(len(moving))
    merged = np.concatenate([common, x[moving]])
    free = np.ones(len(merged), bool)
    free[:n_packets] = [bool(own.any()) or not (group_of == p).any() for p, own in enumerate(common)]
    rest = FoundMovement(np.zeros_like(x), np.zeros(len(x), bool), 0.0)
    if not free.any():
        return rest
    precision = _about_packets(packets[moving], n_packets)
    merged = problem.searched(group_of, merged, precision, free)
    gain = (values[0] - evidence.value_and_gradient(merged[group_of][shots])[0]) / unit
    gain -= float(np.einsum("sk,stk,tk->", merged, precision, merged))
    sums = problem.grouped(group_of, len(merged))
    for group in np.flatnonzero(free).tolist():
        spread = _PACKET_SPREAD if group < n_packets else _SPREAD
        gain -= _cost(_positive(sums[group, :, group]), spread**2)
    return FoundMovement(merged[group_of], moves, gain) if gain > 0 else rest


def _about_packets(
    packet_of: Int[np.ndarray, " moving"], n_packets: int
) -> Float[np.ndarray, "groups groups 7"]:
    """Precision of the packets about their stack, then of shots that move about their packets."""
    n = n_packets + len(packet_of)
    about = np.eye(n)
    about[np.arange(n_packets, n), packet_of] = -1.0
    spreads = np.concatenate([np.tile(_PACKET_SPREAD, (n_packets, 1)), np.tile(_SPREAD, (len(packet_of), 1))])
    return np.asarray(np.einsum("gs,gt,gk->stk", about, about, 1 / spreads**2))


@dataclass(frozen=True)
class _Problem:
    """J over ``unit``, of positions that groups of shots share."""

    evidence: MovementEvidence
    shot_of: Int[np.ndarray, " slices"]
    unit: float
    curvature: Float[np.ndarray, "slices 7 slices 7"]
    """Of J over ``unit``."""

    def grouped(
        self, group_of: Int[np.ndarray, " shots"], n_groups: int
    ) -> Float[np.ndarray, "groups 7 groups 7"]:
        """The curvature by the positions of groups."""
        members = np.eye(n_groups)[group_of[self.shot_of]]
        return np.asarray(np.einsum("sg,satb,th->gahb", members, self.curvature, members, optimize=True))

    def searched(
        self,
        group_of: Int[np.ndarray, " shots"],
        start: Float[np.ndarray, "groups 7"],
        precision: Float[np.ndarray, "groups groups 7"],
        free: Bool[np.ndarray, " groups"],
    ) -> Float[np.ndarray, "groups 7"]:
        """The least of J / unit + Σ x P x over the positions of the groups that are free."""

        def placed(x: Array) -> Array:
            groups: Array = start.copy()
            groups[free] = x.reshape(-1, N_PARAMETERS)
            return groups

        def value_and_gradient(x: Array) -> tuple[float, Array]:
            groups = placed(x)
            value, by_slice = self.evidence.value_and_gradient(groups[group_of][self.shot_of])
            pull = np.einsum("stk,tk->sk", precision, groups)
            gradient = 2 * pull
            np.add.at(gradient, group_of[self.shot_of], by_slice / self.unit)
            return value / self.unit + float((groups * pull).sum()), gradient[free].ravel()

        n = int(free.sum()) * N_PARAMETERS
        held = 2 * np.einsum("stk,kl->sktl", precision, np.eye(N_PARAMETERS))[free][:, :, free].reshape(n, n)
        curvature = self.grouped(group_of, len(start))[free][:, :, free].reshape(n, n)
        values, vectors = np.linalg.eigh(curvature)
        convex = (vectors * np.maximum(values, 0.0)) @ vectors.T
        inverse = np.linalg.inv(convex + held)
        reached = descended(
            value_and_gradient, start[free].ravel(), inverse, _ENOUGH_MM, _MOST_STEPS, one_by_one
        )
        return placed(reached.x)


def _consensus(
    x: Float[np.ndarray, "shots 7"],
    packets: Int[np.ndarray, " shots"],
    curvatures: Float[np.ndarray, "shots 7 7"],
    pulls: Float[np.ndarray, "shots 7"],
    may_move: Bool[np.ndarray, " shots"],
) -> tuple[Float[np.ndarray, "packets 7"], Bool[np.ndarray, " shots"]]:
    """The position of each packet, 0 where it rests with its stack, and the shots that do not share it.

    At ``x`` J and the prior pull equally: J's slope there is −2 ``pulls``.
    """
    slopes = -2 * pulls
    common, moves = np.zeros((packets.max() + 1, N_PARAMETERS)), np.zeros(len(x), bool)

    def rise(k: int, to: Array) -> float:
        step = to - x[k]
        return float(slopes[k] @ step + 0.5 * step @ curvatures[k] @ step)

    for packet in range(len(common)):
        members = np.flatnonzero(packets == packet)
        common[packet] = np.median(x[members], axis=0)
        for _ in range(_ROUNDS):
            for k in members.tolist():
                # A gain of its own is no reason to move: anatomy that the T1w does not show looks like one.
                to = np.append(common[packet, :6], x[k, 6])
                price = float(((to - x[k]) ** 2 / _SPREAD**2).sum()) + _cost(curvatures[k], _SPREAD**2)
                moves[k] = may_move[k] and rise(k, to) > price
            resting = members[~moves[members]]
            if not len(resting):
                break
            blocks = curvatures[resting]
            least = np.einsum("sij,sj->i", blocks, x[resting]) - slopes[resting].sum(0)
            common[packet] = np.linalg.solve(blocks.sum(0) + np.diag(2 / _PACKET_SPREAD**2), least)
        resting, own = members[~moves[members]], common[packet]
        gain = sum(rise(k, np.zeros(N_PARAMETERS)) - rise(k, own) for k in resting.tolist())
        price = float((own**2 / _PACKET_SPREAD**2).sum())
        if len(resting):
            price += _cost(curvatures[resting].sum(0), _PACKET_SPREAD**2)
        if gain <= price:
            common[packet] = 0.0
    return common, moves


def _cost(curvature: Float[np.ndarray, "7 7"], variances: Float[np.ndarray, " 7"]) -> float:
    """What a position of its own costs: log det of the prior's covariance over the posterior's."""
    root = np.sqrt(variances)
    return float(np.linalg.slogdet(np.eye(N_PARAMETERS) + 0.5 * root[:, None] * curvature * root)[1])


def _positive(block: Float[np.ndarray, "7 7"]) -> Float[np.ndarray, "7 7"]:
    return np.asarray(np.linalg.inv(positive_inverse(block, _LEAST_CURVATURE)))
