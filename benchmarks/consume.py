"""Runs in the tools' own environment (benchmarks/consumers.py): each tool on one participant's results.

    python consume.py FOLDER

FOLDER has bids/, out/ (with the export) and truth/. The last line of stdout is a JSON list of rows. Nothing
here imports AtlasGS: what it says of its files is all that the tools know.
"""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ants
import nibabel as nib
import numpy as np
from bids import BIDSLayout
from nilearn.maskers import NiftiMasker
from nilearn.masking import compute_background_mask
from niworkflows.interfaces.freesurfer import detect_inputs
from niworkflows.utils.bids import collect_data
from scipy import ndimage
from skimage.filters import threshold_multiotsu
from smriprep.workflows.surfaces import init_surface_recon_wf

MOST_VOLUME_ERROR, LEAST_DICE = 0.25, 0.7
"""Of a tissue, against what the same tool makes of the truth."""
WHITE_FA, GREY_FA = 0.7, 0.1
MOST_ANGLE_DEG = 10.0


def main() -> int:
    folder = Path(sys.argv[1]).absolute()
    raw = folder / "out" / "derivatives" / "raw"
    found = collected(raw)
    rows = [
        *chosen(folder, raw, found),
        *masked(folder, found),
        *classified(folder, found),
        *segmented(folder, found),
        *registered(found),
    ]
    if (folder / "bids" / "sub-01" / "dwi").exists():
        rows += diffusion(folder)
    print(json.dumps([{"order": order, **row} for order, row in enumerate(rows)]))
    return 0


def row(consumer: str, command: str, result: str, **numbers: Any) -> dict[str, Any]:
    distribution = {"ANTsPy": "antspyx"}.get(consumer, consumer.lower())
    return {
        "consumer": consumer,
        "version": version(distribution),
        "command": command,
        "result": result,
        **numbers,
    }


def collected(raw: Path) -> dict[str, list[str]]:
    """What niworkflows finds with the filter file, as sMRIPrep and fMRIPrep ask it."""
    filters = json.loads((raw / "bids_filter.json").read_text(encoding="utf-8"))
    found, _ = collect_data(raw, "01", bids_filters=filters)
    return {kind: [str(path) for path in found[kind]] for kind in ("t1w", "t2w", "flair")}


def names(paths: list[str]) -> str:
    return ", ".join(Path(path).name for path in paths)


def chosen(folder: Path, raw: Path, found: dict[str, list[str]]) -> list[dict[str, Any]]:
    assert names(found["t1w"]) == "sub-01_T1w.nii.gz", found
    assert names(found["t2w"]) == "sub-01_rec-atlasgs_T2w.nii.gz", found
    assert names(found["flair"]) == "sub-01_rec-atlasgs_FLAIR.nii.gz", found
    t2w, _, _, _ = detect_inputs(found["t1w"], t2w_list=found["t2w"], flair_list=found["flair"])
    _, flair, _, _ = detect_inputs(found["t1w"], flair_list=found["flair"])
    assert (t2w, flair) == (found["t2w"][0], found["flair"][0]), (t2w, flair)
    thick, _ = collect_data(folder / "bids", "01")
    nothing = detect_inputs(thick["t1w"], t2w_list=thick["t2w"], flair_list=thick["flair"])
    assert nothing[:2] == (None, None), nothing
    recon = init_surface_recon_wf(omp_nthreads=1, hires=True, fs_no_resume=False, precomputed={})
    node = recon.get_node("recon_config").interface
    node.inputs.t1w_list, node.inputs.t2w_list, node.inputs.flair_list = (
        found["t1w"], found["t2w"], found["flair"],
    )  # fmt: skip
    outputs = node.run().outputs
    assert outputs.use_t2w, outputs
    assert outputs.t2w == found["t2w"][0], outputs
    layout = BIDSLayout(raw)
    queried = layout.get(suffix="FLAIR", reconstruction="atlasgs", extension=".nii.gz", return_type="file")
    assert queried == found["flair"], queried
    return [
        row("niworkflows", 'collect_data(raw, "01", bids_filters)', names([*found["t2w"], *found["flair"]])),
        row(
            "niworkflows",
            "detect_inputs",
            f"{names([t2w])}; without a T2w {names([flair])}; of the acquired images none",
        ),
        row(
            "sMRIPrep",
            "init_surface_recon_wf(...), its node recon_config",
            f"recon-all with -T2pial from {names([outputs.t2w])}",
        ),
        row("pybids", 'BIDSLayout(raw).get(suffix="FLAIR", reconstruction="atlasgs")', names(queried)),
    ]


def masked(folder: Path, found: dict[str, list[str]]) -> list[dict[str, Any]]:
    """nilearn's mask of what is no background, and the images' values in it."""
    mask = compute_background_mask(found["t2w"][0], opening=False)
    head = load(folder / "truth" / "head.nii.gz") > 0.5
    overlap = dice(np.asarray(mask.dataobj) > 0, head)
    masker = NiftiMasker(mask_img=mask, standardize=None).fit()
    values = np.vstack([masker.transform(path).ravel() for path in (found["t2w"][0], found["flair"][0])])
    true = np.vstack(
        [masker.transform(str(folder / "truth" / f"{name}.nii.gz")).ravel() for name in ("T2w", "FLAIR")]
    )
    correlations = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(values, true, strict=True)]
    assert overlap > 0.9, overlap
    assert min(correlations) > 0.9, correlations
    return [
        row(
            "nilearn",
            "compute_background_mask(T2w), NiftiMasker",
            f"mask: Dice {overlap:.2f} with the head; correlation with the truth in it: "
            f"T2w {correlations[0]:.3f}, FLAIR {correlations[1]:.3f}",
            dice=overlap, correlations=correlations,
        )
    ]  # fmt: skip


def classified(folder: Path, found: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Otsu's thresholds of the T2w inside of the brain: three classes."""
    brain = load(folder / "truth" / "brain.nii.gz") > 0.5

    def classes(path: Path | str) -> Any:
        image = load(path)
        thresholds = threshold_multiotsu(image[brain], classes=3)
        return np.where(brain, 1 + np.digitize(image, thresholds), 0)

    ours, truth = classes(found["t2w"][0]), classes(folder / "truth" / "T2w.nii.gz")
    volumes, overlaps = compared(ours, truth)
    return [
        row(
            "scikit-image",
            "threshold_multiotsu(T2w in the brain, classes=3)",
            described(volumes, overlaps),
            volume_ratios=volumes, dice=overlaps,
        )
    ]  # fmt: skip


def segmented(folder: Path, found: dict[str, list[str]]) -> list[dict[str, Any]]:
    """ANTs' Atropos on T2w and FLAIR together: three classes, in the order of their T2w."""
    brain = ants.threshold_image(ants.image_read(str(folder / "truth" / "brain.nii.gz")), 0.5, 1e9)

    def classes(t2w: str, flair: str) -> Any:
        images = [ants.image_read(t2w), ants.image_read(flair)]
        labels = ants.atropos(images, brain, i="KMeans[3]", m="[0.1,1x1x1]", c="[5,0]")[
            "segmentation"
        ].numpy()
        means = [images[0].numpy()[labels == label].mean() for label in (1, 2, 3)]
        order = np.argsort(np.argsort(means)) + 1
        return np.choose(labels.astype(int), [0, *order])

    truth = folder / "truth"
    ours = classes(found["t2w"][0], found["flair"][0])
    volumes, overlaps = compared(ours, classes(str(truth / "T2w.nii.gz"), str(truth / "FLAIR.nii.gz")))
    return [
        row(
            "ANTsPy",
            'atropos([T2w, FLAIR], brain, "KMeans[3]")',
            described(volumes, overlaps),
            volume_ratios=volumes, dice=overlaps,
        )
    ]  # fmt: skip


def registered(found: dict[str, list[str]]) -> list[dict[str, Any]]:
    """ANTs moves the FLAIR to the T1w of the export, which it lies on already."""
    t1w, flair = ants.image_read(found["t1w"][0]), ants.image_read(found["flair"][0])
    moved = ants.registration(t1w, flair, "Rigid", random_seed=1)
    transform = ants.read_transform(moved["fwdtransforms"][0])
    extent_mm = np.array(t1w.shape) * t1w.spacing
    corners = np.array(np.meshgrid(*[[0.2, 0.8]] * 3)).reshape(3, -1).T * extent_mm
    points_mm = np.array(t1w.origin) + corners @ t1w.direction.T
    shifts = [np.linalg.norm(transform.apply_to_point(point) - point) for point in points_mm]
    shift_mm = float(np.mean(shifts))
    assert shift_mm < 1.0, shift_mm
    return [
        row(
            "ANTsPy",
            'registration(T1w, FLAIR, "Rigid")',
            f"{shift_mm:.2f} mm from where they are, mean of eight points",
            shift_mm=shift_mm,
        )
    ]  # fmt: skip


def diffusion(folder: Path) -> list[dict[str, Any]]:
    """dipy's own commands on the derivative and the bval and bvec beside it."""
    scripts = Path(sys.executable).parent
    (image,) = (folder / "out" / "sub-01" / "dwi").glob("*_desc-sr_dwi.nii.gz")
    stem, made = image.name.removesuffix(".nii.gz"), folder / "dipy"
    made.mkdir(exist_ok=True)
    bval, bvec = (image.with_name(f"{stem}.{name}") for name in ("bval", "bvec"))
    brain = folder / "truth" / "brain.nii.gz"
    mask, affine = made / "brain.nii.gz", nib.Nifti1Image.from_filename(brain).affine
    nib.save(nib.Nifti1Image((load(brain) > 0.5).astype(np.uint8), affine), mask)
    command = [scripts / "dipy_fit_dti", image, bval, bvec, mask]
    subprocess.run([*command, "--out_dir", made, "--force"], check=True, stdout=subprocess.DEVNULL)
    anisotropy, truth = load(made / "fa.nii.gz"), load(folder / "truth" / "FA.nii.gz")
    directions = np.asarray(nib.Nifti1Image.from_filename(made / "evecs.nii.gz").dataobj)[..., :, 0]
    inside = ndimage.binary_erosion(load(brain) > 0.5, iterations=3)
    white = ndimage.binary_erosion(truth > WHITE_FA) & inside
    grey = ndimage.binary_erosion(truth < GREY_FA) & inside
    of_tissues = (anisotropy[white], truth[white], anisotropy[grey])
    white_fa, true_fa, grey_fa = (float(np.median(values)) for values in of_tissues)
    cosine = np.clip(np.abs(directions[white][:, 0]), 0, 1)
    angle_deg = float(np.degrees(np.arccos(np.median(cosine))))
    assert abs(white_fa - true_fa) < 0.1, (white_fa, true_fa)
    assert grey_fa < 0.25, grey_fa
    assert angle_deg < MOST_ANGLE_DEG, angle_deg
    return [
        row(
            "dipy",
            "dipy_fit_dti *_desc-sr_dwi.nii.gz *.bval *.bvec mask",
            f"median FA of white matter {white_fa:.2f} (truth {true_fa:.2f}), of grey matter and fluid "
            f"{grey_fa:.2f} (truth below {GREY_FA}); median angle to the true direction {angle_deg:.1f}°",
            white_fa=white_fa, true_fa=true_fa, grey_fa=grey_fa, angle_deg=angle_deg,
        )
    ]  # fmt: skip


def compared(ours: Any, truth: Any) -> tuple[list[float], list[float]]:
    """Volume over the true volume and Dice of each class; AssertionError where they are far apart."""
    labels = (1, 2, 3)
    volumes = [float((ours == label).sum() / (truth == label).sum()) for label in labels]
    overlaps = [dice(ours == label, truth == label) for label in labels]
    assert max(abs(volume - 1) for volume in volumes) < MOST_VOLUME_ERROR, (volumes, overlaps)
    assert min(overlaps) > LEAST_DICE, (volumes, overlaps)
    return volumes, overlaps


def described(volumes: list[float], overlaps: list[float]) -> str:
    shown = [" / ".join(f"{value:.2f}" for value in values) for values in (volumes, overlaps)]
    return f"white / grey / fluid: volume {shown[0]} of what it finds in the truth, Dice {shown[1]}"


def dice(first: Any, second: Any) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def load(path: Path | str) -> Any:
    return nib.Nifti1Image.from_filename(path).get_fdata(dtype=np.float32)


if __name__ == "__main__":
    sys.exit(main())
