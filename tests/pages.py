"""A session of tiny images as the app would hand it to the report, without computing anything."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure

from atlasgs_bids.imaging.registration.register import Registration, write_itk_transform
from atlasgs_bids.report.columns import metrics_dictionary
from atlasgs_bids.report.contents import PageContents, PlanRow, StackFiles, TargetContents
from atlasgs_bids.restoration.anchor import load_anchor
from tests.bids_datasets import THICK_MM, head

NASTY = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
"""What a file may say of itself."""


def save(path, data, affine, dtype=np.float32):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(data, dtype), affine), path)
    return path


def target_contents(folder: Path, label: str = "FLAIR", **changes) -> TargetContents:
    """A finished target in ``folder``: all its images, a calibration figure, metrics, warnings."""
    suffix = label.rpartition("_")[2]
    acquired, native = head(suffix, THICK_MM)
    restored, grid = head(suffix)
    rng = np.random.default_rng(0)
    residual = rng.normal(0, 8, acquired.shape)
    stack = StackFiles(
        name=f"sub-01_{label}.nii.gz",
        acquired=save(folder / f"{label}.nii.gz", acquired, native),
        simulated=save(folder / f"{label}_simulated.nii.gz", acquired - residual, native),
        residual=save(folder / f"{label}_residual.nii.gz", residual, native),
        transform=folder / f"{label}_xfm.txt",
        slice_axis=2,
        thickness_mm=9.0,
        figures={"calibration": folder / f"{label}_calibration.png"},
    )
    moved = np.eye(4)
    moved[:3, 3] = (1.0, -0.5, 0.5)
    write_itk_transform(stack.transform, Registration(moved, 0.0, 1.0, 1.0, "rigid", None, None))
    Figure(figsize=(2, 1)).savefig(stack.figures["calibration"])
    fields = {
        "label": label,
        "finished": True,
        "stacks": (stack,),
        "result": save(folder / f"{label}_sr.nii.gz", restored, grid),
        "sd": save(folder / f"{label}_srstd.nii.gz", 10 + 0.1 * restored, grid),
        "trusted": save(folder / f"{label}_trusted.nii.gz", restored > 550, grid, np.uint8),
        "flags": save(folder / f"{label}_flags.nii.gz", (restored > 700) * 2, grid, np.uint8),
        "fov": save(folder / f"{label}_fov.nii.gz", np.ones_like(restored), grid, np.uint8),
        "figure": folder / f"{label}.png",
        "thumbnail": folder / f"{label}_thumbnail.jpg",
        "sidecar": {
            "Warnings": ["the slices cover 70 % of the head"],
            "Prior": "graph",
            "Settings": {"seed": 1},
        },
        "metrics": {
            "sharpness_after": "0.9",
            "device": "cpu",
            "registration_method": "rigid",
            "trust": "n/a",
        },
    }
    return TargetContents(**{**fields, **changes})


def page_contents(folder: Path, *targets: TargetContents, **changes) -> PageContents:
    """A session with these targets and a T1w."""
    image, affine = head("T1w")
    anchor = load_anchor(save(folder / "T1w.nii.gz", image, affine), None)
    page = PageContents(
        label="sub-01",
        stem="sub-01",
        version="0.1.0",
        written="2026-01-01 12:00 UTC",
        command="atlasgs BIDS OUT participant",
        settings_toml="seed = 1\n",
        plan=(PlanRow("anchor", "sub-01_T1w.nii.gz", "the only usable T1w"),),
        anchor=anchor,
        targets=targets,
        metrics_dictionary=metrics_dictionary(),
    )
    return replace(page, **changes)
