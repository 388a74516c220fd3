"""The learned prior: a network trained on one target's own slices predicts the target on its lattice.

Within a slice the target is sharp. Its slices are blurred once more, along one of their own axes, as the
scanner blurred the slice axis; a network that also sees the anchor learns to undo that, and is then applied
along the slice axis, where nobody knows the answer. Nothing but this subject's own scans is used.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.acquisition import AcquisitionOperator
from atlasgs_bids.core.priors.degradation import Sampling, acquired_degradation, along, sampling_of
from atlasgs_bids.core.priors.network import RestorationNetwork, restore
from atlasgs_bids.core.priors.pairs import Planes, fill_unobserved, held_out_squares, make_planes
from atlasgs_bids.core.settings import LearnedSettings

_LEAST_VOXELS = 500
_LEAST_SAMPLES = 2.0
"""Of a line, once it is blurred."""
_SD_LOSS_WEIGHT = 0.01
_LEAST_LOG_SD = -7.0
_NORMAL_90 = 1.645
"""Half width, in σ, of the interval that holds 90 % of a normal distribution."""
_INFERENCE_VOXELS = 2_000_000
"""Of one batch of planes: bounds the memory."""


class TooLittleDataError(ValueError):
    """A target from which nothing can be learned."""


@dataclass(frozen=True)
class Stack:
    """The acquired slices of one target, and the anchor on the lattice of their acquisition."""

    slices: Float[Tensor, "x y z"]
    """Native intensities."""
    weights: Float[Tensor, "x y z"]
    """W; 0: not observed."""
    slice_axis: int
    acquisition: AcquisitionOperator
    anchor: Float[Tensor, "X Y Z"]
    """Resampled at the lattice's cells; 0 outside its field of view."""


@dataclass(frozen=True)
class Prediction:
    """What the network expects on the lattice, in the target's intensity units."""

    image: Float[Tensor, "X Y Z"]
    sd: Float[Tensor, "X Y Z"]
    """Standard deviation of its error, scaled so that 90 % intervals hold 90 % of held-out voxels."""


@dataclass(frozen=True)
class _Normalized:
    """A stack in units in which its observed intensities range over about 1."""

    target: Float[Tensor, "x y z"]
    anchor: Float[Tensor, "X Y Z"]
    observed: Float[Tensor, "x y z"]
    offset: float
    scale: float


@dataclass(frozen=True)
class _Restorer:
    """A network for one axis, and the factor that calibrates its expected error."""

    network: RestorationNetwork
    sd_factor: float


@dataclass(frozen=True)
class TrainedPrior:
    """One network for the slice axis, and one for in-plane axes that are coarser than the lattice."""

    slice_restorer: _Restorer | None
    in_plane_restorer: _Restorer | None
    dtype: torch.dtype


def train_prior(
    stacks: Sequence[Stack],
    settings: LearnedSettings,
    seed: int,
    on_step: Callable[[int], None] = lambda _: None,
) -> TrainedPrior:
    """Networks trained on stacks of one contrast; deterministic by ``seed`` on one device.

    ``on_step(n)`` is called as training steps are done, ``settings.n_steps`` of them in all.
    Raises TooLittleDataError where the slices hold too few observed voxels to learn from.
    """
    generator = torch.Generator().manual_seed(seed)
    slice_pairs: list[Planes] = []
    in_plane_pairs: list[Planes] = []
    for stack in stacks:
        slice_pairs += _pairs(stack, (stack.slice_axis,), settings, generator)
        in_plane_pairs += _pairs(stack, _in_plane_axes(stack), settings, generator)
    dtype = _dtype(stacks[0].slices.device)
    groups = [pairs for pairs in (slice_pairs, in_plane_pairs) if pairs]
    restorers = {
        id(pairs): _train(pairs, settings, settings.n_steps // len(groups), generator, dtype, on_step)
        for pairs in groups
    }
    return TrainedPrior(restorers.get(id(slice_pairs)), restorers.get(id(in_plane_pairs)), dtype)


@torch.no_grad()
def predict(prior: TrainedPrior, stack: Stack) -> Prediction:
    """The target on the lattice of ``stack``: restored along the slice axis, then along coarse others."""
    data = _normalize(stack)
    image, lattice_degradations = _interpolate(stack, data)
    variance = torch.zeros_like(image)
    sharp_axes = [axis for axis in range(3) if _sampling(stack, axis).is_identity]
    for axis in (stack.slice_axis, *_in_plane_axes(stack)):
        restorer = prior.slice_restorer if axis == stack.slice_axis else prior.in_plane_restorer
        if restorer is None or axis in sharp_axes:
            continue
        across = [other for other in range(3) if other != axis and other in sharp_axes]
        if axis == stack.slice_axis:
            across = [other for other in range(3) if other != axis]
        image, axis_sd = _restore_along(
            restorer, image, data.anchor, axis, across, lattice_degradations[axis], prior.dtype
        )
        variance += axis_sd**2
        sharp_axes.append(axis)
    return Prediction(image * data.scale + data.offset, variance.sqrt() * data.scale)


def _sampling(stack: Stack, axis: int) -> Sampling:
    step = float(stack.acquisition.native_from_lattice[axis, axis])
    return sampling_of(stack.acquisition.axis_matrix(axis), round(1 / step))


def _in_plane_axes(stack: Stack) -> tuple[int, ...]:
    return tuple(axis for axis in range(3) if axis != stack.slice_axis)


def _normalize(stack: Stack) -> _Normalized:
    observed = (stack.weights > 0).float()
    values = stack.slices[stack.weights > 0].float()
    if len(values) < _LEAST_VOXELS:
        raise TooLittleDataError(
            f"the slices hold {len(values)} observed voxels, and the learned prior needs {_LEAST_VOXELS}; "
            "take the graph prior for this target"
        )
    low, offset, high = _percentiles(values, (0.05, 0.5, 0.95))
    scale = high - low or float((values - offset).abs().mean()) or 1.0
    normalized = torch.movedim((stack.slices.float() - offset) / scale, stack.slice_axis, 0)
    filled = fill_unobserved(normalized, torch.movedim(observed, stack.slice_axis, 0))
    seen = stack.anchor[stack.anchor != 0].float()
    low, _, high = _percentiles(seen, (0.05, 0.5, 0.95)) if len(seen) else (0.0, 0.0, 0.0)
    anchor = stack.anchor.float() / (high - low or 1.0)
    return _Normalized(torch.movedim(filled, 0, stack.slice_axis), anchor, observed, offset, scale)


def _percentiles(values: Float[Tensor, " n"], fractions: Sequence[float]) -> list[float]:
    ordered = values.sort().values
    return [float(ordered[min(int(f * len(ordered)), len(ordered) - 1)]) for f in fractions]


def _pairs(
    stack: Stack, axes: tuple[int, ...], settings: LearnedSettings, generator: torch.Generator
) -> list[Planes]:
    """Planes of a stack, blurred along each in-plane axis as ``axes`` are; none where those are sharp."""
    blurs = [sampling for axis in axes if not (sampling := _sampling(stack, axis)).is_identity]
    if not blurs:
        return []
    data = _normalize(stack)
    anchor = stack.acquisition.forward(data.anchor)
    first, second = _in_plane_axes(stack)
    order = (stack.slice_axis, first, second)
    shape = tuple(stack.slices.shape[axis] for axis in order)
    held_out = held_out_squares((shape[0], shape[1], shape[2]), settings.held_out_fraction, generator)
    volumes = [
        data.target.permute(order),
        anchor.permute(order),
        data.observed.permute(order),
        held_out.to(data.target.device),
    ]
    identity = Sampling(torch.ones(1, dtype=torch.float64), 1)
    pairs = []
    for along_u in blurs:
        for axis_v, transposed in ((first, False), (second, True)):
            planes = [volume.transpose(1, 2) if transposed else volume for volume in volumes]
            along_v = _sampling(stack, axis_v) if axes == (stack.slice_axis,) else identity
            if planes[0].shape[2] >= _LEAST_SAMPLES * along_u.stride:
                pairs.append(make_planes(planes[0], planes[1], planes[2], planes[3], along_u, along_v))
    if not pairs:
        raise TooLittleDataError(
            f"slices of {shape[1]} × {shape[2]} voxels hold fewer than {_LEAST_SAMPLES:.0f} samples of "
            f"{blurs[0].stride} voxels; take the graph prior for this target"
        )
    return pairs


def _train(
    pairs: Sequence[Planes],
    settings: LearnedSettings,
    n_steps: int,
    generator: torch.Generator,
    dtype: torch.dtype,
    on_step: Callable[[int], None],
) -> _Restorer:
    device = pairs[0].anchor.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        network = RestorationNetwork(settings)
    network = network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=device.type == "cuda")
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.learning_rate, total_steps=n_steps, pct_start=0.1
    )
    widths = [min(settings.window, planes.anchor.shape[1]) for planes in pairs]
    sizes = [
        max(1, settings.batch_voxels // (width * planes.anchor.shape[2]))
        for width, planes in zip(widths, pairs, strict=True)
    ]
    n_turns = math.ceil(n_steps / len(pairs))
    choices = [
        planes.choose(n_turns * size, width, generator, held_out=False).to(device)
        for planes, size, width in zip(pairs, sizes, widths, strict=True)
    ]
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
        for step in range(n_steps):
            turn, which = divmod(step, len(pairs))
            size = sizes[which]
            batch = pairs[which].batch(
                choices[which][turn * size : (turn + 1) * size], widths[which], held_out=False
            )
            image, log_sd = restore(
                network, batch.blurred, batch.anchor, batch.degradations, batch.positions, dtype
            )
            error = image - batch.sharp
            bounded = log_sd.clamp_min(_LEAST_LOG_SD)
            fit = torch.nn.functional.huber_loss(
                image, batch.sharp, reduction="none", delta=settings.huber_delta
            )
            surprise = bounded + error.detach().abs() * torch.exp(-bounded)  # Laplace, up to a constant
            per_voxel = fit + _SD_LOSS_WEIGHT * surprise
            loss = (per_voxel * batch.weights).sum() / batch.weights.sum().clamp_min(1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            on_step(1)
        return _Restorer(network.eval(), _calibrate(network, pairs, widths, sizes, generator, dtype))


@torch.no_grad()
def _calibrate(
    network: RestorationNetwork,
    pairs: Sequence[Planes],
    widths: Sequence[int],
    sizes: Sequence[int],
    generator: torch.Generator,
    dtype: torch.dtype,
) -> float:
    """σ over the network's raw expected error, such that 90 % intervals hold 90 % of the held-out voxels."""
    ratios = []
    for planes, width, size in zip(pairs, widths, sizes, strict=True):
        for _ in range(4):
            choices = planes.choose(size, width, generator, held_out=True).to(planes.anchor.device)
            batch = planes.batch(choices, width, held_out=True)
            image, log_sd = restore(
                network, batch.blurred, batch.anchor, batch.degradations, batch.positions, dtype
            )
            ratio = (image - batch.sharp).abs() * torch.exp(-log_sd.clamp_min(_LEAST_LOG_SD))
            ratios.append(ratio[batch.weights > 0])
    return _percentiles(torch.cat(ratios), (0.9,))[0] / _NORMAL_90


def _interpolate(stack: Stack, data: _Normalized) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
    """The target interpolated to the lattice, and (D, positions) of each axis."""
    image = data.target
    degradations = {}
    for axis in range(3):
        matrix = stack.acquisition.axis_matrix(axis)
        observed = torch.ones(matrix.shape[0])
        if axis == stack.slice_axis:
            observed = torch.movedim(data.observed, axis, 0).flatten(1).amax(1)
        back, D = acquired_degradation(_sampling(stack, axis), matrix, observed)
        if not _sampling(stack, axis).is_identity:
            image = along(back, image, axis)
        degradations[axis] = D.matrices[0].to(image), D.positions[0].to(image)
    return image, degradations


def _restore_along(
    restorer: _Restorer,
    image: Float[Tensor, "X Y Z"],
    anchor: Float[Tensor, "X Y Z"],
    axis: int,
    across: Sequence[int],
    lattice_degradation: tuple[Tensor, Tensor],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Mean image and expected error over the planes that hold ``axis`` and one of ``across``."""
    D, positions = lattice_degradation
    total, total_sd = torch.zeros_like(image), torch.zeros_like(image)
    for v_axis in across:
        order = (3 - axis - v_axis, v_axis, axis)
        blurred, guide = image.permute(order).contiguous(), anchor.permute(order).contiguous()
        restored, sd = torch.empty_like(blurred), torch.empty_like(blurred)
        n_planes = max(1, _INFERENCE_VOXELS // blurred[0].numel())
        for begin in range(0, len(blurred), n_planes):
            rows = slice(begin, begin + n_planes)
            n = len(blurred[rows])
            restored[rows], log_sd = restore(
                restorer.network,
                blurred[rows],
                guide[rows],
                D.expand(n, -1, -1),
                positions.expand(n, -1, -1),
                dtype,
            )
            sd[rows] = torch.exp(log_sd.clamp_min(_LEAST_LOG_SD)) * restorer.sd_factor
        inverse = tuple(order.index(i) for i in range(3))
        total += restored.permute(inverse)
        total_sd += sd.permute(inverse)
    return total / len(across), total_sd / len(across)


def _dtype(device: torch.device) -> torch.dtype:
    # Half of float32's time where the card has matrix units for it, at equal fidelity (decision 0006).
    has_bfloat16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if has_bfloat16 else torch.float32
