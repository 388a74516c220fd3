"""Training of a restoration network on planes."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from atlasgs_bids.core.priors.learned.network import RestorationNetwork, restore
from atlasgs_bids.core.priors.learned.pairs import Planes
from atlasgs_bids.core.settings import LearnedSettings

LEAST_LOG_SD = -7.0
"""A thousandth of the target's range: bounds the weight of a voxel that is predicted exactly."""
_SD_LOSS_WEIGHT = 0.01
_WARM_UP = 0.05
"""Fraction of the steps over which the learning rate rises; it then falls as a cosine."""


class Trainer:
    """A network and its training on fixed storage: the planes may be overwritten in place between rounds."""

    def __init__(
        self, planes: Sequence[Planes], settings: LearnedSettings, reach: int, generator: torch.Generator
    ) -> None:
        self._planes, self._settings, self._generator = planes, settings, generator
        self._device = planes[0].anchor.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            network = RestorationNetwork(settings, reach)
        self.network = network.to(self._device)
        on_gpu = self._device.type == "cuda"
        # A tensor, so that a recorded step reads the rate of the moment.
        self._rate = torch.zeros((), device=self._device)
        self._optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self._rate, betas=(0.9, 0.99), fused=on_gpu, capturable=on_gpu
        )
        self._sizes = []
        for each in planes:
            _, n_v, n_u = each.anchor.shape
            self._sizes.append(max(1, settings.batch_voxels // (min(settings.window, n_v) * n_u)))
        self._stream = torch.cuda.Stream(self._device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._choices = [torch.zeros(size, 6, dtype=torch.int64, device=self._device) for size in self._sizes]
        self._recorded = [self._record(which) for which in range(len(planes))] if on_gpu else []

    def steps(self, n_steps: int) -> Iterator[int]:
        """One round of ``n_steps``, the planes by turns; the learning rate rises and falls once.

        Each step is done, or on a GPU queued on the trainer's own stream, when the iterator is advanced to
        its 1.
        """
        window, n_turns = self._settings.window, math.ceil(n_steps / len(self._planes))
        drawn = [
            planes.choose(n_turns * size, window, self._generator).view(n_turns, size, 6).to(self._device)
            for planes, size in zip(self._planes, self._sizes, strict=True)
        ]
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        for step in range(n_steps):
            turn, which = divmod(step, len(self._planes))
            with torch.cuda.stream(self._stream):  # of None: no other stream
                self._rate.fill_(self._settings.learning_rate * _schedule(step / n_steps))
                self._choices[which].copy_(drawn[which][turn])
                if self._recorded:
                    self._recorded[which].replay()
                else:
                    self._step(which)
            yield 1
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def finish(self) -> RestorationNetwork:
        """The network; the recorded steps and their memory are let go."""
        if self._recorded:
            torch.cuda.synchronize(self._device)
        for graph in self._recorded:
            graph.reset()
        self._recorded.clear()
        self._optimizer.zero_grad(set_to_none=True)  # gradients of a recorded step live in its memory
        return self.network.requires_grad_(requires_grad=False)

    def _record(self, which: int) -> torch.cuda.CUDAGraph:
        """A step as one CUDA graph: to launch its kernels one by one takes 2.5 times as long."""
        self._rate.fill_(0.0)  # the steps before and during the recording change nothing
        # Streams, the recording and Adam's look at it are the current device's, whatever the tensors are on.
        with (
            torch.cuda.device(self._device),
            torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False),
        ):
            stream = self._stream
            assert stream is not None
            before = torch.cuda.current_stream(self._device)
            stream.wait_stream(before)
            with torch.cuda.stream(stream):
                self._step(which)
            before.wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Its own default stream is made once in a process, on the device of the first recording.
            with torch.cuda.graph(graph, stream=stream):
                self._step(which)
        return graph

    def _step(self, which: int) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        self._loss(which).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def _loss(self, which: int) -> Tensor:
        batch = self._planes[which].batch(self._choices[which], self._settings.window, self.network.reach)
        image, log_sd = restore(
            self.network, batch.blurred, batch.anchor, batch.degradations, batch.positions
        )
        # Near the squared error, which PSNR scores, and not ruled by a few bright voxels.
        fit = torch.nn.functional.huber_loss(
            image, batch.sharp, reduction="none", delta=self._settings.huber_delta
        )
        bounded = log_sd.clamp_min(LEAST_LOG_SD)
        error = (image - batch.sharp).detach().abs()
        surprise = bounded + error * torch.exp(-bounded)  # of a Laplace distribution, up to a constant
        per_voxel = fit + _SD_LOSS_WEIGHT * surprise
        return (per_voxel * batch.weights).sum() / batch.weights.sum().clamp_min(1)


def advance_together(rounds: Iterable[Iterator[int]], on_step: Callable[[int], None]) -> None:
    """Rounds of several trainers, a step of each by turns: on a GPU they run beside each other.

    One network's kernels fill three quarters of a large GPU; what each learns is the same as alone.
    """
    for done in zip_longest(*rounds, fillvalue=0):
        on_step(sum(done))


def _schedule(fraction: float) -> float:
    if fraction < _WARM_UP:
        return max(fraction / _WARM_UP, 1e-3)
    return max(0.5 * (1 + math.cos(math.pi * (fraction - _WARM_UP) / (1 - _WARM_UP))), 1e-3)
