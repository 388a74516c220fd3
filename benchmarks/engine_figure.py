"""The figures of engine.py."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt


def draw(report: dict[str, Any], out: Path) -> None:
    """OUT.png: this engine beside the others over N, time and memory; OUT-growth.png: how its cost grows."""
    rows, title = report["kernels"], f"{report['device']}, torch {report['torch']}"
    engines = {"this engine": "", "torch reference": "reference ", "gsplat, composited slices": "gsplat "}
    columns = {"": "forward and gradients ms", "reference ": "reference ms"}
    figure, (times, memory) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for label, prefix in engines.items():
        key = columns.get(prefix, f"{prefix}forward and gradients ms")
        if key in rows[0]:
            n = [row["n"] for row in rows]
            times.loglog(n, [row[key] for row in rows], "o-", label=label)
            memory.loglog(n, [row[f"{prefix}peak GiB"] for row in rows], "o-", label=label)
    times.set(
        xlabel="Gaussians", ylabel="ms", title="Forward and all gradients, a brain at 1 mm", ylim=(1, None)
    )
    memory.set(xlabel="Gaussians", ylabel="GiB", title="Peak GPU memory")
    times.legend()
    _save(figure, title, out.with_suffix(".png"))

    figure, (over_n, over_voxels) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for key in ("project ms", "lists ms", "scatter ms", "gather ms", "project_backward ms"):
        over_n.loglog([row["n"] for row in rows], [row[key] for row in rows], ".--", label=key[:-3])
    over_n.loglog(
        [row["n"] for row in rows], [row["forward and gradients ms"] for row in rows], "ko-", label="all"
    )
    over_n.set(xlabel="Gaussians", ylabel="ms", title="Forward and all gradients, 2.8 M voxels")
    over_n.set_ylim(0.05, 12)
    over_n.legend(fontsize="small", ncols=2, loc="upper left")
    grown = report["voxels"]
    over_voxels.loglog([row["voxels"] / 1e6 for row in grown], [row["ms"] for row in grown], "ko-")
    over_voxels.set(
        xlabel="voxels of the grid, millions", ylabel="ms", title="One Gaussian for each voxel of the head",
        xlim=(0.1, 10), ylim=(1, 10),
    )  # fmt: skip
    _save(figure, title, out.with_name(f"{out.name}-growth.png"))


def _save(figure: Any, title: str, path: Path) -> None:
    for axes in figure.axes:
        axes.grid(which="both", alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
