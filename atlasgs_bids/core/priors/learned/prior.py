"""The learned prior: a network trained on one target's own slices predicts the target on its lattice.

Within a slice the target is sharp. Its slices are blurred once more, along one of their own axes, as the
scanner blurred the slice axis; a network that also sees the anchor learns to undo that, and is then applied
along the slice axis, where nobody knows the answer. A second network learns the same on the lattice: from
what was predicted there, whose in-plane detail was acquired, and beside the anchor at its full sharpness; its
prediction is what it learns from in the next round. Nothing but this subject's own scans is used.
"""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.priors.expectation import Evidence, ExpectedStack, Prediction, expected_stack
from atlasgs_bids.core.priors.learned.calibration import ExpectedError, measured_error
from atlasgs_bids.core.priors.learned.degradation import Degradation, along
from atlasgs_bids.core.priors.learned.evidence import lattice_share, network_evidence
from atlasgs_bids.core.priors.learned.inference import restore_volume
from atlasgs_bids.core.priors.learned.network import RestorationNetwork
from atlasgs_bids.core.priors.learned.prepare import (
    PreparedStack,
    Stack,
    TooLittleDataError,
    View,
    lattice_views,
    native_views,
    prepare,
)
from atlasgs_bids.core.priors.learned.training import Trainer, advance_together
from atlasgs_bids.core.settings import LearnedSettings

_MOST_TRAINED = 8
"""Stacks of one position that a network is trained on: each round restores every one of them."""

__all__ = ["Prediction", "Stack", "TooLittleDataError", "TrainedPrior", "predict", "train_prior"]

_AT_ONCE = 2
"""Networks that are trained beside each other on a GPU: two need little more time than one."""
_REACH = 2
"""Neighbouring planes on either side that the network on the lattice sees."""


@dataclass(frozen=True)
class _Restorer:
    network: RestorationNetwork
    error: ExpectedError


@dataclass(frozen=True)
class TrainedPrior:
    """A network for the slice axis, and one for in-plane axes that are coarser than the lattice."""

    along_slices: _Restorer | None
    in_plane: _Restorer | None


_Training = Generator[Iterator[int], None, TrainedPrior]
"""Yields the rounds of steps that it wants, and goes on once one has been made."""


def train_prior(
    stacks: Sequence[Stack],
    settings: LearnedSettings,
    seed: int,
    on_step: Callable[[int], None] = lambda _: None,
) -> TrainedPrior:
    """Networks trained on stacks of one contrast; deterministic by ``seed`` on one device.

    ``on_step(1)`` is called after each training step, ``settings.n_steps`` times at most. Where every
    in-plane axis is coarser than the lattice, nothing on the lattice is known to be sharp, and the network
    trained on the acquired slices is the last one. Raises TooLittleDataError where the slices hold too
    little to learn from.
    """
    (found,) = train_priors([stacks], settings, seed, on_step)
    if isinstance(found, TooLittleDataError):
        raise found
    return found


def train_priors(
    contrasts: Sequence[Sequence[Stack]],
    settings: LearnedSettings,
    seed: int,
    on_step: Callable[[int], None] = lambda _: None,
) -> list[TrainedPrior | TooLittleDataError]:
    """``train_prior`` of several contrasts, their steps by turns: the same networks, sooner on a GPU.

    ``on_step(k)`` is called after a step of each of the k that are being trained.
    """
    found: dict[int, TrainedPrior | TooLittleDataError] = {}
    trainings = {number: _training(stacks, settings, seed) for number, stacks in enumerate(contrasts)}
    while trainings:
        rounds = []
        for number, training in list(trainings.items()):
            try:
                rounds.append(next(training))
                continue
            except StopIteration as end:
                found[number] = end.value
            except TooLittleDataError as error:
                found[number] = error
            del trainings[number]
        advance_together(rounds, on_step)
    return [found[number] for number in range(len(contrasts))]


def _training(stacks: Sequence[Stack], settings: LearnedSettings, seed: int) -> _Training:
    generator = torch.Generator().manual_seed(seed)
    data = [prepare(stack, settings.held_out_fraction, generator) for stack in stacks]
    through_views = [view for each in data for view in native_views(each, (each.observation.slice_axis,))]
    in_plane_views = [view for each in data for view in native_views(each, each.plane_axes)]
    has_sharp_lattice = any(lattice_views(each, each.interpolated) for each in data)
    n_alone = settings.n_steps // ((1 if through_views else 0) + (1 if in_plane_views else 0) or 1)

    along_slices = in_plane = None
    if through_views and has_sharp_lattice:
        first = yield from _trained(through_views, settings, settings.n_first_steps, generator)
        along_slices = yield from _trained_on_lattice(data, first, settings, generator)
    elif through_views:
        network = yield from _trained(through_views, settings, n_alone, generator)
        along_slices = _Restorer(network, measured_error(network, through_views))
    if in_plane_views:
        n_steps = settings.n_first_steps if has_sharp_lattice else n_alone
        network = yield from _trained(in_plane_views, settings, n_steps, generator)
        in_plane = _Restorer(network, measured_error(network, in_plane_views))
    return TrainedPrior(along_slices, in_plane)


@torch.no_grad()
def predict(prior: TrainedPrior, stack: Stack) -> Prediction:
    """The target on the lattice of ``stack``: restored along the slice axis, then along coarse others."""
    data = prepare(stack, 0.0, torch.Generator())
    image, variance = data.interpolated, torch.zeros_like(data.interpolated)
    evidence = None
    slice_axis = stack.observation.slice_axis
    if prior.along_slices is not None and not data.samplings[slice_axis].is_identity:
        image, sd, evidence = _weighed(prior.along_slices.network, data)
        variance = variance + prior.along_slices.error.variance(sd)
    across = [slice_axis, *data.sharp_axes]
    for axis in data.plane_axes:
        if prior.in_plane is not None and axis not in across:
            image, sd = _restore_along(prior.in_plane.network, data, image, axis, across)
            variance = variance + prior.in_plane.error.variance(sd)
            across.append(axis)
    return Prediction(image * data.scale + data.offset, variance.sqrt() * data.scale, evidence)


def _weighed(
    network: RestorationNetwork, data: PreparedStack
) -> tuple[Float[Tensor, "X Y Z"], Float[Tensor, "X Y Z"], Evidence]:
    """What the network restores along the slice axis, as far as the slices bear it out."""
    axis = data.observation.slice_axis
    restored, sd = _restore_along(network, data, data.interpolated, axis, data.plane_axes)
    evidence = network_evidence(network, data, lattice_views(data, restored) or native_views(data, (axis,)))
    share, added = lattice_share(evidence, data), restored - data.interpolated
    part = share * added
    # Only what the slices cannot see may change, so that the result still agrees with them.
    image = data.interpolated + part - along(data.degradations[axis].matrices[0], part, axis)
    # Where the slices do not decide between the two, either may be right.
    return image, (sd.square() + share * (1 - share) * added.square()).sqrt(), evidence


def _trained(
    views: Sequence[View], settings: LearnedSettings, n_steps: int, generator: torch.Generator
) -> Generator[Iterator[int], None, RestorationNetwork]:
    trainer = Trainer([view.planes for view in views], settings, 0, generator)
    yield trainer.steps(n_steps)
    return trainer.finish()


def _trained_on_lattice(
    data: Sequence[PreparedStack],
    first: RestorationNetwork,
    settings: LearnedSettings,
    generator: torch.Generator,
) -> Generator[Iterator[int], None, _Restorer]:
    """The network that ends ``settings.n_cycles`` rounds, each trained on what the round before predicted."""
    images = _predicted(first, data)
    views = [view for pair in zip(data, images, strict=True) for view in lattice_views(*pair)]
    trainer = Trainer([view.planes for view in views], settings, _REACH, generator)
    for cycle in range(settings.n_cycles):
        yield trainer.steps(settings.n_cycle_steps)
        if cycle == settings.n_cycles - 1:
            break
        before, images = images, _predicted(trainer.network, data)
        # A round shrinks the detail that it is not sure of; to go beyond its change saves rounds.
        overshoot = settings.over_relaxation if cycle else 0.0
        beyond = [torch.lerp(old, new, 1 + overshoot) for old, new in zip(before, images, strict=True)]
        renewed = [view for pair in zip(data, beyond, strict=True) for view in lattice_views(*pair)]
        for old_view, new_view in zip(views, renewed, strict=True):
            old_view.planes.target.copy_(new_view.planes.target)
    network = trainer.finish()
    return _Restorer(network, measured_error(network, views))


def _predicted(network: RestorationNetwork, data: Sequence[PreparedStack]) -> list[Tensor]:
    return [
        _restore_along(network, each, each.interpolated, each.observation.slice_axis, each.plane_axes)[0]
        for each in data
    ]


@torch.no_grad()
def _restore_along(
    network: RestorationNetwork,
    data: PreparedStack,
    image: Float[Tensor, "X Y Z"],
    axis: int,
    across: Sequence[int],
) -> tuple[Float[Tensor, "X Y Z"], Float[Tensor, "X Y Z"]]:
    """Mean image and expected error over the planes that hold ``axis`` and one of ``across``."""
    degradation: Degradation = data.degradations[axis]
    total, total_sd = torch.zeros_like(image), torch.zeros_like(image)
    for v in across:
        order = (3 - axis - v, v, axis)
        inverse = tuple(order.index(i) for i in range(3))
        restored, sd = restore_volume(network, image.permute(order), data.anchor.permute(order), degradation)
        total += restored.permute(inverse)
        total_sd += sd.permute(inverse)
    return total / len(across), total_sd / len(across)


def expect_each(
    observations: Sequence[LatticeObservation],
    supports: Sequence[Bool[Tensor, "X Y Z"]],
    gaussians: Gaussians,
    settings: LearnedSettings,
    seed: int,
    on_step: Callable[[int], None] = lambda _: None,
) -> list[ExpectedStack | TooLittleDataError]:
    """Train a network on each stack, guided by the anchor as the Gaussians render it; predict its lattice.

    ``supports``: the cells in which Gaussians were placed. TooLittleDataError in place of what a stack holds
    too little for. The networks know nothing of each other; on a GPU two at a time are trained.
    """
    at_once = _AT_ONCE if gaussians.means_mm.is_cuda else 1
    found: list[ExpectedStack | TooLittleDataError] = []
    for first in range(0, len(observations), at_once):
        some = slice(first, first + at_once)
        data = [Stack(own, own.splat.forward(gaussians.amplitudes)) for own in observations[some]]
        priors = train_priors([[each] for each in data], settings, seed, on_step)
        for each, support, prior in zip(data, supports[some], priors, strict=True):
            if not isinstance(prior, TooLittleDataError):
                found.append(expected_stack(each.observation, support, predict(prior, each), gaussians))
            else:
                found.append(prior)
    return found


def expect_together(
    observations: Sequence[LatticeObservation],
    support: Bool[Tensor, "X Y Z"],
    gaussians: Gaussians,
    settings: LearnedSettings,
    seed: int,
    on_step: Callable[[int], None] = lambda _: None,
) -> tuple[ExpectedStack, ...]:
    """What one network, trained on stacks of one position, expects of each of them.

    At most ``_MOST_TRAINED`` are trained on, evenly chosen. Raises TooLittleDataError where there is nothing
    to learn from.
    """
    anchor = observations[0].splat.forward(gaussians.amplitudes)
    data = [Stack(observation, anchor) for observation in observations]
    step = max(1, math.ceil(len(data) / _MOST_TRAINED))
    prior = train_prior(data[::step], settings, seed, on_step)
    return tuple(expected_stack(each.observation, support, predict(prior, each), gaussians) for each in data)
