"""The figures of a series: the mean of each kind of its volumes, before and after."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atlasgs_bids.app.target import TargetRun
from atlasgs_bids.bids.plan.series import SeriesPlan
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.series import Series
from atlasgs_bids.imaging.volume import Grid
from atlasgs_bids.imaging.volume_motion import SeriesMotion
from atlasgs_bids.report.figures.target import TargetImages, target_figure
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.runtime.files import atomic

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SeriesPosition:
    """Where a series lies on the output grid."""

    grid: Grid
    fov: npt.NDArray[np.bool_]
    target_from_anchor: npt.NDArray[np.float64]
    """Of its reference."""
    motion: SeriesMotion | None
    """Of its volumes from there; None: none was looked for."""

    def mean(self, series: Series, indices: Sequence[int]) -> Array:
        """Mean of some volumes on the output grid, interpolated where each of them lay."""
        groups: dict[Hashable, list[int]] = {}
        for index in indices:
            groups.setdefault(None if self.motion is None else self.motion.positions[index], []).append(index)
        total = np.zeros(self.grid.shape, np.float32)
        for group in groups.values():
            position = self.target_from_anchor
            if self.motion is not None:
                position = self.motion.target_from_anchor(group[0], position)
            share = np.float32(len(group) / len(indices))
            total += share * resample(series.mean(group), self.grid, position)
        return total


def write_series_figures(
    run: TargetRun,
    kinds: SeriesPlan,
    series: Series,
    restored_means: Mapping[str, Array],
    sds: Mapping[str, Array],
    anchor: Anchor,
    position: SeriesPosition,
) -> None:
    """One figure for each kind of volume, the mean of its volumes; for ASL control minus label as well.

    ``sds``: of one volume of each kind, where it is known.
    """
    grid = position.grid
    anchor_image = resample(anchor.volume, grid)
    mask = anchor.foreground_on(grid) & position.fov

    def draw(name: str, cubic: Array, restored: Array) -> None:
        n_volumes = len(kinds.volumes_of(name))
        title = f"{run.label}: {name}" + (f", mean of {n_volumes} volumes" if n_volumes > 1 else "")
        if name in sds and n_volumes > 1:
            title += ", standard deviation of one"
        with atomic(run.outputs.figure_of(name)) as path:
            shown = TargetImages(anchor_image, cubic, restored, sds.get(name), anchor_name=anchor.name)
            target_figure(path, shown, grid.world_from_voxel, title, mask)

    cubic = {kind: position.mean(series, kinds.volumes_of(kind)) for kind in dict.fromkeys(kinds.kinds)}
    for kind, image in cubic.items():
        draw(kind, image, restored_means[kind])
    if kinds.is_perfusion:
        difference = restored_means["control"] - restored_means["label"]
        draw("difference", cubic["control"] - cubic["label"], difference)
