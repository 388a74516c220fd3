"""Implicit neural representation of the target alone: a SIREN through the same acquisition operator."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.restoration.observation import observe_placed
from atlasgs_bids.study.methods.protocol import Image, Restored, bright, kept
from atlasgs_bids.study.settings import NetworkSettings, StudyConfig
from atlasgs_bids.study.simulation.case import Case

_RENDER_POINTS = 2**18


class Siren(nn.Module):
    """Coordinates (n, 3) in −1 ... 1 -> intensities (n, contrasts); sines throughout (Sitzmann 2020)."""

    def __init__(self, settings: NetworkSettings, n_contrasts: int) -> None:
        super().__init__()
        widths = [3, *[settings.width] * (settings.n_hidden + 1)]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.last = nn.Linear(settings.width, n_contrasts)
        self.frequencies = [settings.first_frequency, *[settings.hidden_frequency] * settings.n_hidden]
        with torch.no_grad():
            for position, layer in enumerate([*self.layers, self.last]):
                n_in = layer.in_features
                bound = 1 / n_in if position == 0 else math.sqrt(6 / n_in) / settings.hidden_frequency
                layer.weight.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        for layer, frequency in zip(self.layers, self.frequencies, strict=True):
            x = torch.sin(frequency * layer(x))
        out: Tensor = self.last(x)
        return out


@dataclass(frozen=True)
class Coordinates:
    """World (mm) -> −1 ... 1 over the longest side of the anchor's support."""

    centre_mm: Tensor
    half_mm: float

    def normalised(self, points_vox: Tensor, world_from_voxel: Tensor) -> Tensor:
        """(n, 3) coordinates of index coordinates of a grid."""
        affine = world_from_voxel.to(points_vox)
        points_mm = points_vox @ affine[:3, :3].T + affine[:3, 3]
        return (points_mm - self.centre_mm.to(points_mm)) / self.half_mm

    @classmethod
    def of(cls, case: Case) -> "Coordinates":
        anchor = case.scaffold.anchor
        voxels = np.argwhere(anchor.support)
        affine = anchor.volume.world_from_voxel
        ends = np.stack([voxels.min(axis=0), voxels.max(axis=0)]) @ affine[:3, :3].T + affine[:3, 3]
        half_mm = float(np.abs(ends[1] - ends[0]).max() / 2)
        return cls(torch.from_numpy(ends.mean(axis=0)), half_mm)


class Acquired:
    """The acquired voxels, each with the cells of the lattice that it is the weighted mean of."""

    def __init__(self, observation: LatticeObservation, scale: float) -> None:
        device = observation.slices.device
        self.voxels = (observation.weights > 0).nonzero()
        self.values = observation.slices[tuple(self.voxels.T)] / scale
        self.cells, self.weights = [], []
        for axis in range(3):
            matrix = observation.acquisition.axis_matrix(axis).to(device)
            used = matrix > 0
            n_used = int(used.sum(1).max())
            # The cells of a sample are neighbours: from its first one on, padded by cells of weight 0.
            first = used.float().argmax(1)
            cells = (first[:, None] + torch.arange(n_used, device=device)).clamp_max(matrix.shape[1] - 1)
            weights = torch.gather(matrix, 1, cells)
            weights *= first[:, None] + torch.arange(n_used, device=device) < matrix.shape[1]
            self.cells.append(cells)
            self.weights.append(weights)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Cells (n, k, 3), their weights (n, k) and the values (n,) of voxels drawn with replacement."""
        chosen = torch.randint(len(self.voxels), (n,), generator=generator, device=self.values.device)
        cells, weights = self.cells_of(self.voxels[chosen])
        return cells, weights, self.values[chosen]

    def cells_of(self, voxels: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (n, k, 3) and weights (n, k) of native voxels (n, 3)."""
        own = [self.cells[axis][voxels[:, axis]] for axis in range(3)]
        x, y, z = own[0][:, :, None, None], own[1][:, None, :, None], own[2][:, None, None, :]
        cells = torch.stack(torch.broadcast_tensors(x, y, z), dim=-1).flatten(1, 3)
        wx, wy, wz = (self.weights[axis][voxels[:, axis]] for axis in range(3))
        weights = (wx[:, :, None, None] * wy[:, None, :, None] * wz[:, None, None, :]).flatten(1)
        return cells, weights


@dataclass(frozen=True)
class Inr:
    """The method; with the T1w, one network has both contrasts and the T1w's voxels are data as well."""

    with_anchor: bool

    def missing(self, study: StudyConfig, device: str) -> str | None:  # noqa: ARG002 - the protocol's
        return None

    def restore(self, case: Case) -> Restored:
        with _matrix_units():
            return Restored(kept(self._restored(case), case))

    def _restored(self, case: Case) -> Image:
        settings, device = case.study.network_here, case.run.device
        observation = observe_placed(case.placed, case.scaffold.anchor, case.scaffold.gaussians, case.run)
        scale = bright(observation)
        acquired, coordinates = Acquired(observation, scale), Coordinates.of(case)
        torch.manual_seed(case.study.seed)
        network = Siren(settings, 2 if self.with_anchor else 1).to(device)
        generator = torch.Generator(device).manual_seed(case.study.seed)
        anchor = case.scaffold.anchor
        anchor_voxels = torch.from_numpy(np.argwhere(anchor.support)).to(device)
        anchor_values = torch.from_numpy(anchor.volume.data[anchor.support] / anchor.scale).to(device)
        world = torch.from_numpy(anchor.volume.world_from_voxel).float()
        lattice = observation.world_from_lattice.float()
        optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.n_steps)
        with case.progress.stage(f"{case.label}: network", settings.n_steps) as advance:
            for _ in range(settings.n_steps):
                cells, weights, values = acquired.draw(settings.batch, generator)
                predicted = network(coordinates.normalised(cells.flatten(0, 1).float(), lattice))[:, 0]
                loss = ((predicted.view(weights.shape) * weights).sum(1) - values).square().mean()
                if self.with_anchor:
                    chosen = torch.randint(
                        len(anchor_voxels), (settings.batch,), generator=generator, device=device
                    )
                    points = coordinates.normalised(anchor_voxels[chosen].float(), world)
                    misfit = (network(points)[:, 1] - anchor_values[chosen]).square().mean()
                    loss = loss + settings.anchor_weight * misfit
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                advance(1)
        image = np.zeros(case.grid.shape, np.float32)
        voxels = torch.from_numpy(np.argwhere(case.wanted)).to(device)
        with torch.no_grad():
            parts = [
                network(coordinates.normalised(part.float(), world))[:, 0]
                for part in voxels.split(_RENDER_POINTS)
            ]
        image[tuple(voxels.cpu().numpy().T)] = (torch.cat(parts) * scale).cpu().numpy()
        return image


@contextmanager
def _matrix_units() -> Iterator[None]:
    """TF32 for the network's products, as others train theirs; the app's own work never sees it."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


METHOD, WITH_T1 = Inr(with_anchor=False), Inr(with_anchor=True)
