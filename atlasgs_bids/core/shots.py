"""The likeliest movement between the shots of a stack, by evidence and by what is believed of heads.

A head lies in most shots where it lay in the others of a pass through the stack (a packet), else some
millimetres away; and so does a packet relative to its stack. One slice alone hardly tells some motions: a
position of its own is believed where it raises the evidence by more than its seven parameters cost
(Laplace's approximation).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    What is compared in the end is every start as it is, a position for each shot, and one for all that share
    their packet's: J of the same observed voxels and the same prior for all.
    """
    shots, packets = np.asarray(shot_of), np.asarray(packet_of)
    may_move = np.ones(len(packets), bool) if may_move is None else may_move
    tried = [evidence.value_and_gradient(start[shots])[0] for start in starts]
    start = starts[int(np.argmin(tried))]
    curvature = evidence.curvature(start[shots])
    alone = np.arange(len(packets))
    problem = _Problem(evidence, shots, _unit(evidence, start[shots], curvature), curvature)
    precision = _of_shots(packets)
    x = problem.searched(alone, start, precision, alone >= 0)
    # At a better place what the model does not explain is less.
    problem = replace(problem, unit=_unit(evidence, x[shots], curvature))
    value, slopes = problem.value_and_gradient(alone, x)
    blocks = problem.grouped(alone, len(alone))[alone, :, alone]
    blocks = np.stack([_positive(block) for block in blocks])
    common, moves = _consensus(x, packets, blocks, slopes, may_move)
    n_packets, moving = len(common), np.flatnonzero(moves)
    group_of = packets.copy()
    group_of[moving] = n_packets + np.arange(len(moving))
    merged = np.concatenate([common, x[moving]])
    free = np.ones(len(merged), bool)
    free[:n_packets] = [bool(own.any()) or not (group_of == p).any() for p, own in enumerate(common)]
    rest, every = np.zeros_like(x), np.ones(len(x), bool)
    found = [FoundMovement(rest, ~every, 0.0)]
    at_rest = tried[0] / problem.unit
    own_price = problem.price(alone, precision, every)

    def kept(parameters: Array, moves: Bool[np.ndarray, " shots"], value: float, price: float) -> None:
        found.append(FoundMovement(parameters, moves, at_rest - value - price))

    for own, j in zip(starts[1:], tried[1:], strict=True):
        kept(own, every, j / problem.unit, _pull(own, precision) + own_price)
    kept(x, every, value, _pull(x, precision) + own_price)
    if free.any():
        about = _about_packets(packets[moving], n_packets)
        merged = problem.searched(group_of, merged, about, free)
        value, _ = problem.value_and_gradient(group_of, merged)
        price = _pull(merged, about) + problem.price(group_of, about, free)
        kept(merged[group_of], moves, value, price)
    return max(found, key=lambda one: one.gain)


def gain_over_rest(
    evidence: MovementEvidence,
    shot_of: Sequence[int],
    packet_of: Sequence[int],
    parameters: Float[np.ndarray, "shots 7"],
) -> float:
    """Twice the logarithm of how much likelier a movement that is given is than a head at rest."""
    shots, packets = np.asarray(shot_of), np.asarray(packet_of)
    at_rest, value = (evidence.value_and_gradient(x[shots])[0] for x in (0 * parameters, parameters))
    if value >= at_rest:  # and the prior is for rest as well
        return min(0.0, (at_rest - value) * float(evidence.n_pixels.sum()) / value)
    curvature = evidence.curvature(parameters[shots])
    problem = _Problem(evidence, shots, _unit(evidence, parameters[shots], curvature), curvature)
    alone, precision = np.arange(len(packets)), _of_shots(packets)
    price = problem.price(alone, precision, alone >= 0)
    return (at_rest - value) / problem.unit - _pull(parameters, precision) - price


def _unit(
    evidence: MovementEvidence,
    parameters: Float[np.ndarray, "slices 7"],
    curvature: Float[np.ndarray, "slices 7 slices 7"],
) -> float:
    """What J is to be divided by to be −2 log likelihood.

    Where errors are the model's, neighbours err alike, and the gradient of J varies by more than white
    noise of the same size would have it: by so much J counts less (composite likelihood; Pauli, Racugno
    and Ventura 2011). Never by less than white noise.
    """
    value, _ = evidence.value_and_gradient(parameters)
    each = np.arange(len(parameters))
    bent = curvature[each, :6, each][:, :, :6].sum(0)
    alike = float(np.trace(positive_inverse(bent) @ evidence.spread.sum(0))) / (2 * len(bent))
    return max(alike, value / float(evidence.n_pixels.sum()))


def _of_shots(packets: Int[np.ndarray, " shots"]) -> Float[np.ndarray, "shots shots 7"]:
    """Precision of shots about their packet, and of packets about their stack."""
    same = np.equal.outer(packets, packets)
    centred = np.eye(len(packets)) - same / same.sum(1)
    return np.asarray(
        centred[:, :, None] / _SPREAD**2 + (same / same.sum(1) ** 2)[:, :, None] / _PACKET_SPREAD**2
    )


def _pull(x: Float[np.ndarray, "groups 7"], precision: Float[np.ndarray, "groups groups 7"]) -> float:
    return float(np.einsum("sk,stk,tk->", x, precision, x))


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
    """J / ``unit``, of positions that groups of shots share."""

    evidence: MovementEvidence
    shot_of: Int[np.ndarray, " slices"]
    unit: float
    curvature: Float[np.ndarray, "slices 7 slices 7"]
    """Of J."""

    def grouped(
        self, group_of: Int[np.ndarray, " shots"], n_groups: int
    ) -> Float[np.ndarray, "groups 7 groups 7"]:
        """The curvature of J / unit by the positions of groups."""
        members = np.eye(n_groups)[group_of[self.shot_of]]
        summed = np.einsum("sg,satb,th->gahb", members, self.curvature, members, optimize=True)
        return np.asarray(summed / self.unit)

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
            value, gradient = self.value_and_gradient(group_of, groups)
            pull = np.einsum("stk,tk->sk", precision, groups)
            return value + float((groups * pull).sum()), (gradient + 2 * pull)[free].ravel()

        curvature, held = self._free(group_of, precision, free)
        inverse = np.linalg.inv(curvature + held)
        reached = descended(
            value_and_gradient, start[free].ravel(), inverse, _ENOUGH_MM, _MOST_STEPS, one_by_one
        )
        return placed(reached.x)

    def value_and_gradient(
        self, group_of: Int[np.ndarray, " shots"], groups: Float[np.ndarray, "groups 7"]
    ) -> tuple[float, Float[np.ndarray, "groups 7"]]:
        """J / unit, and its derivatives by the positions of groups."""
        value, by_slice = self.evidence.value_and_gradient(groups[group_of][self.shot_of])
        gradient = np.zeros_like(groups)
        np.add.at(gradient, group_of[self.shot_of], by_slice / self.unit)
        return value / self.unit, gradient

    def price(
        self,
        group_of: Int[np.ndarray, " shots"],
        precision: Float[np.ndarray, "groups groups 7"],
        free: Bool[np.ndarray, " groups"],
    ) -> float:
        """Log determinant of the prior's covariance over the posterior's (Laplace's approximation)."""
        curvature, held = self._free(group_of, precision, free)
        return float(np.linalg.slogdet(curvature + held)[1] - np.linalg.slogdet(held)[1])

    def _free(
        self,
        group_of: Int[np.ndarray, " shots"],
        precision: Float[np.ndarray, "groups groups 7"],
        free: Bool[np.ndarray, " groups"],
    ) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
        """Curvature of J / unit, where it is convex, and of the prior, by the positions that are free."""
        n = int(free.sum()) * N_PARAMETERS
        held = 2 * np.einsum("stk,kl->sktl", precision, np.eye(N_PARAMETERS))[free][:, :, free].reshape(n, n)
        curvature = self.grouped(group_of, len(precision))[free][:, :, free].reshape(n, n)
        values, vectors = np.linalg.eigh(curvature)
        return (vectors * np.maximum(values, 0.0)) @ vectors.T, held


def _consensus(
    x: Float[np.ndarray, "shots 7"],
    packets: Int[np.ndarray, " shots"],
    curvatures: Float[np.ndarray, "shots 7 7"],
    slopes: Float[np.ndarray, "shots 7"],
    may_move: Bool[np.ndarray, " shots"],
) -> tuple[Float[np.ndarray, "packets 7"], Bool[np.ndarray, " shots"]]:
    """The position of each packet, 0 where it rests with its stack, and the shots that do not share it.

    ``curvatures`` and ``slopes``: of J / unit at ``x``.
    """
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
            resting, moving = members[~moves[members]], members[moves[members]]
            blocks = curvatures[resting]
            least = np.einsum("sij,sj->i", blocks, x[resting]) - slopes[resting].sum(0)
            # Those that move lie about it too: without them, two slices at the vertex placed it 30 mm away.
            least += 2 * x[moving].sum(0) / _SPREAD**2
            held = 2 / _PACKET_SPREAD**2 + 2 * len(moving) / _SPREAD**2
            common[packet] = np.linalg.solve(blocks.sum(0) + np.diag(held), least)
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
