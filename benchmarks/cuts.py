"""Cuts through restored targets, to be looked at: truth, cubic, graph, learned, error, uncertainty.

    python benchmarks/devices.py --scans DIR --device cuda --prior graph --out OUT
    python benchmarks/devices.py --scans DIR --device cuda --prior learned --out OUT
    python benchmarks/cuts.py --results OUT
    python benchmarks/cuts.py --demo docs/images/cuts.png

The third command draws a PNG beside the volumes of each case, a sagittal and a coronal cut. The last one
makes its own: a head of the demo (3 mm, the target in slices of 9 mm), on a CPU in minutes.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atlasgs_bids.imaging.interpolated import mean_interpolated
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import anchor_of
from atlasgs_bids.restoration.scaffold import scaffold_of
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.simulation.degrade import Degradation
from atlasgs_bids.study.simulation.stack import simulated_stack

Image = npt.NDArray[np.float32]
CUTS = {"sagittal": 0, "coronal": 1}
BACKGROUND, TEXT = "#0d0d0f", "#f2f2f2"


def main() -> None:
    parser = argparse.ArgumentParser(description="Cuts through restored targets.")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--results", type=Path, help="folder that devices.py --out wrote, graph and learned")
    group.add_argument("--demo", type=Path, help="PNG to write, of a head of the demo")
    parser.add_argument("--device", default="cpu", help="of the demo's head")
    options = parser.parse_args()
    if options.demo is not None:
        options.demo.parent.mkdir(parents=True, exist_ok=True)
        draw(options.demo, *demo_case(options.device))
        return
    for learned in sorted(options.results.glob("*_learned.npz")):
        graph = learned.with_name(learned.name.replace("_learned", "_graph"))
        found, other = (np.load(path, allow_pickle=False) for path in (learned, graph))
        images = {name: found[name].astype(np.float32) for name in ("truth", "cubic")}
        images["graph"] = other["result"].astype(np.float32)
        images["learned"] = found["result"].astype(np.float32)
        draw(learned.with_suffix(".png"), images, found["sd"].astype(np.float32), None)


def demo_case(device: str) -> tuple[dict[str, Image], Image, tuple[int, int, int]]:
    """A FLAIR of the demo's second subject at 3 mm: images, sd, and the voxel of its lesion."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))
    from anatomy import make_anatomy  # noqa: PLC0415
    from make_dataset import SUBJECTS  # noqa: PLC0415 - takes seconds, and only this case needs it

    voxel_mm, factor, subject = 3, 3, SUBJECTS[1]
    anatomy = make_anatomy(subject.lesion, voxel_mm, 1)
    shape = anatomy.coefficients["T1w"].shape
    shape = (shape[0], shape[1], shape[2] // factor * factor)
    world = np.asarray(np.linalg.inv(anatomy.template_voxel_from_template), dtype=np.float64)
    anchor, truth, brain, lesion = (
        anatomy.sample(name, shape, world, np.eye(4)) for name in ("T1w", "FLAIR", "brain", "lesion")
    )
    mask = brain > 0.5
    t1w, flair, inside = (Volume(image * mask, world) for image in (anchor, truth, np.ones_like(truth)))
    settings = RestorationSettings(device=device).with_network_of_device()
    scaffold = scaffold_of(anchor_of(t1w, inside), settings, Progress.quiet())
    noise = 0.01 * flair.data.max() * np.random.default_rng(0).standard_normal(shape)
    noise = noise[:, :, : shape[2] // factor].astype(np.float32)
    stack = simulated_stack(flair, Degradation("paper", 2, factor), noise)
    graph, learned = (
        stack.restored(scaffold, replace(settings, prior=prior)) for prior in ("graph", "learned")
    )
    cubic = mean_interpolated([own.interpolable for own in graph.stacks], graph.grid)
    images = {"truth": flair.data, "cubic": cubic, "graph": graph.sr, "learned": learned.sr}
    sd = learned.sd
    assert sd is not None
    x, y, z = np.unravel_index(int(lesion.argmax()), shape)
    return images, sd, (int(x), int(y), int(z))


def draw(path: Path, images: dict[str, Image], sd: Image, through: tuple[int, int, int] | None) -> None:
    """One row for each cut; the error is that of the learned prior, in the uncertainty's window."""
    truth = images["truth"]
    inside = truth > 0
    voxels = np.argwhere(inside)
    low, high = voxels.min(0), voxels.max(0) + 1
    point = through or tuple(int(v) for v in (low + high) // 2)
    white = float(np.percentile(truth[inside], 99.7))
    error = np.abs(images["learned"] - truth) * inside
    largest = float(np.percentile(error[inside], 99))
    columns = [(name, image, white, "gray") for name, image in images.items()]
    columns.append(("|error|, learned", error, largest, "magma"))
    columns.append(("standard deviation", sd * inside, largest, "magma"))
    across, up = max(high[1] - low[1], high[0] - low[0]), high[2] - low[2]
    width = 2.0
    figure = Figure(figsize=(width * len(columns), 2 * width * up / across + 0.3), facecolor=BACKGROUND)
    panels = figure.subplots(len(CUTS), len(columns), squeeze=False)
    figure.subplots_adjust(left=0.02, right=1, bottom=0, top=0.92, wspace=0.02, hspace=0.02)
    for row, (name, axis) in zip(panels, CUTS.items(), strict=True):
        row[0].set_ylabel(name, color=TEXT, fontsize=8)
        for panel, (title, image, top, colours) in zip(row, columns, strict=True):
            _panel(panel, np.take(image[_box(low, high)], point[axis] - low[axis], axis=axis), top, colours)
            if axis == 0:
                panel.set_title(title, color=TEXT, fontsize=8, pad=3)
    figure.savefig(path, dpi=110, facecolor=BACKGROUND, metadata={"Software": None})


def _box(low: npt.NDArray[np.int64], high: npt.NDArray[np.int64]) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _panel(panel: Axes, cut: Image, top: float, colours: str) -> None:
    panel.imshow(cut.T, origin="lower", cmap=colours, vmin=0, vmax=top, interpolation="nearest")
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_facecolor(BACKGROUND)
    panel.spines[:].set_visible(False)


if __name__ == "__main__":
    main()
