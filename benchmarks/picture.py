"""The pictures of README.md: thick slices of the stroke scan, restored, and seen in an oblique plane.

    python benchmarks/views.py --scans DIR --out OUT --ways straight
    python benchmarks/picture.py --scans DIR --results OUT

writes docs/images/stroke.png and oblique.png. The scan is that of VolumeRenderingData (MIT licence).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.imaging.planes import shown_as
from atlasgs_bids.imaging.volume import Grid, Volume
from atlasgs_bids.restoration.target_files import read_target
from atlasgs_bids.restoration.views import TargetModel

Image = npt.NDArray[np.float32]
Source = TargetModel | tuple[Volume, int]
"""What a plane is cut from: a model, or a volume by splines of an order."""
STEM = "straight_FLAIR_x5"
POINT_MM = (-26.0, -50.0, 23.0)
"""In the lesion, deep in the left hemisphere behind."""
NORMALS = {"coronal": (0.0, 1.0, 0.0), "sagittal": (1.0, 0.0, 0.0)}
OBLIQUE = (0.35, -0.6, 0.72)
"""Between axial and coronal, far from the plane of the slices."""
SPACING_MM = 0.5
BACKGROUND, TEXT, FAINT = "#0d0d0f", "#f2f2f2", "#9a9aa2"
CREDIT = "Stroke scan: VolumeRenderingData, MIT licence. Slices of 5 mm simulated from the 1-mm FLAIR."
PANEL_INCHES = 2.3


def main() -> int:
    parser = argparse.ArgumentParser(description="The pictures of README.md.")
    parser.add_argument("--scans", type=Path, required=True, help="folder with stroke/FLAIR.nii.gz")
    parser.add_argument("--results", type=Path, required=True, help="what benchmarks/views.py wrote")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    options = parser.parse_args()
    if not (options.results / f"{STEM}.npz").exists():
        print(f"skipped: {options.results} has no {STEM}.npz; run benchmarks/views.py --out first")
        return 0
    truth = load_volume(options.scans / "stroke" / "FLAIR.nii.gz")
    brain = load_volume(options.scans / "stroke" / "T1.nii.gz").data > 0
    model = read_target(options.results / f"{STEM}.npz", None)
    slices = load_volume(options.results / f"{STEM}_slices.nii.gz")
    result = load_volume(options.results / f"{STEM}_sr.nii.gz")
    cubic = psnr_db(truth.data, resample(slices, truth.grid), brain)
    restored = psnr_db(truth.data, result.data, brain)
    images: dict[str, Source] = {
        "acquired: slices of 5 mm": (slices, 0),
        f"cubic interpolation, {cubic:.1f} dB": (slices, 3),
        f"AtlasGS, {restored:.1f} dB": model,
        "truth: 1 mm": (truth, 3),
    }
    draw(options.out / "stroke.png", images, NORMALS, truth)
    slice_axis = slices.world_from_voxel[:3, 2]
    cosine = slice_axis @ OBLIQUE / np.linalg.norm(slice_axis) / np.linalg.norm(OBLIQUE)
    angle = np.degrees(np.arccos(cosine))
    oblique: dict[str, Source] = {
        "slices, cubic interpolation": (slices, 3),
        "AtlasGS, rendered in this plane": model,
        "truth": (truth, 3),
    }
    draw(options.out / "oblique.png", oblique, {f"oblique, {angle:.0f}° from the slices": OBLIQUE}, truth)
    return 0


def draw(
    path: Path,
    images: Mapping[str, Source],
    normals: Mapping[str, Sequence[float]],
    truth: Volume,
) -> None:
    """Planes through the lesion as rows, images as columns: a model, or a volume and the order of splines."""
    white = float(np.percentile(truth.data[truth.data > 0], 99.7))
    model = next(image for image in images.values() if isinstance(image, TargetModel))
    cuts = {
        name: [cut(image, model, normal) for image in images.values()] for name, normal in normals.items()
    }
    sizes = [row[0].shape for row in cuts.values()]
    widest = max(width for _, width in sizes)
    heights = [PANEL_INCHES * height / widest for height, _ in sizes]
    size = PANEL_INCHES * len(images), sum(heights) + 0.55
    figure = Figure(figsize=size, facecolor=BACKGROUND)
    panels = figure.subplots(len(cuts), len(images), squeeze=False, gridspec_kw={"height_ratios": heights})
    figure.subplots_adjust(
        left=0.035, right=1, bottom=0.25 / size[1], top=1 - 0.3 / size[1], wspace=0.02, hspace=0.02
    )
    for row, (name, shown) in zip(panels, cuts.items(), strict=True):
        row[0].set_ylabel(name, color=FAINT, fontsize=8)
        for panel, image in zip(row, shown, strict=True):
            show(panel, image, white)
    for panel, title in zip(panels[0], images, strict=True):
        panel.set_title(title, color=TEXT, fontsize=8.5, pad=4)
    figure.text(0.5, 0.08 / size[1], CREDIT, color=FAINT, fontsize=6.5, ha="center", va="bottom")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, facecolor=BACKGROUND, metadata={"Software": None})


def cut(image: Source, model: TargetModel, normal: Sequence[float]) -> Image:
    """The plane through the lesion, as it is shown: rows from top to bottom."""
    view = model.plane(POINT_MM, normal, SPACING_MM)
    if isinstance(image, TargetModel):
        plane = image.render(view)
    else:
        volume, order = image
        plane = resample(volume, view.grid, order=order)
    return upright(plane[..., 0], view.grid)


def upright(plane: Image, grid: Grid) -> Image:
    """In radiological convention."""
    is_transposed, (right, up) = shown_as(grid)
    return (plane.T if is_transposed else plane)[::right, ::up].T[::-1]


def show(panel: Axes, image: Image, white: float) -> None:
    panel.imshow(image, cmap="gray", vmin=0, vmax=white, interpolation="nearest")
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_facecolor(BACKGROUND)
    panel.spines[:].set_visible(False)


if __name__ == "__main__":
    sys.exit(main())
