"""What each column of a study's tables means: the JSON dictionaries beside them."""

from collections.abc import Iterable, Mapping
from typing import Any

from atlasgs_bids.runtime.files import data_dictionary
from atlasgs_bids.study.results.oblique import ANGLES_DEG
from atlasgs_bids.study.results.tissues import CLASSES

_COLUMNS: dict[str, tuple[str, str | None]] = {
    "participant_id": ("Participant", None),
    "session_id": ("Session", None),
    "target": ("Image that was degraded and restored", None),
    "factor": ("Slices are so many voxels thick", "voxel"),
    "method": ("Method (docs/study.md)", None),
    "status": ("done; not run: the method cannot run here; failed: it broke", None),
    "region": ("mask: the foreground of the T1w inside the slices; else the label of a mask", None),
    "psnr": ("Peak signal-to-noise ratio; the range is max - min of the truth in the mask", "dB"),
    "ssim_mask": (
        "Structural similarity, scikit-image's defaults: mean of the map over the region; 0 outside the mask",
        None,
    ),
    "ssim_volume": ("The same, scikit-image's mean over the whole volume", None),
    "mae": ("Mean absolute error", "arbitrary"),
    "edge_ncc": ("Normalised cross-correlation of the gradient magnitudes with those of the T1w", None),
    "edge_ncc_truth": ("The same of the truth: a result far above it has too much of the T1w", None),
    "consistency_rms": (
        "RMS of acquired slices minus those that the simulation makes of the result", "arbitrary"
    ),
    "sharpness": (
        "RMS difference of voxels two apart along the slice axis, over that of the truth (Brenner)", None
    ),
    "n_patches": ("Cubes of 16 voxels in the mask, 8 apart", None),
    "invented": (
        "Patches whose Fourier shells do not correlate with the truth and have more energy (sFRC-like)", "%"
    ),
    "erased": ("The same with less energy", "%"),
    **{
        f"dice_{name}": (f"Dice of the {name} of three tissues, truth and image by multi-Otsu each", None)
        for name in CLASSES
    },
    **{f"bias_{name}": (f"Volume of the {name} tissue over the truth's, minus 1", None) for name in CLASSES},
    **{
        f"oblique_{angle}": (f"PSNR in planes at {angle} degrees to the slices (oblique.py)", "dB")
        for angle in ANGLES_DEG
    },
    "position_error": ("Mean distance over the head of the position that was used from the true one", "mm"),
    "lesion_contrast": ("Region minus its surroundings (3 to 8 mm off), over the same in the truth", None),
    "seconds": ("Time of the method, without what it shares with other targets", "s"),
    "seconds_shared": ("Time of what it shares with the session's other targets, spent once", "s"),
    "peak_memory": ("Peak resident memory of the process meanwhile, what it held before included", "MiB"),
    "peak_gpu_memory": ("Peak memory of tensors on the GPU meanwhile", "MiB"),
    "device": ("Where it was computed", None),
    "version": ("Version of AtlasGS", None),
    "reason": ("Why it was not run, or what broke", None),
    "metric": ("Column of scores.tsv", None),
    "mean": ("Mean over subjects and sessions; the value where there is one", None),
    "n_subjects": ("Number of subjects", None),
    "low": ("Lower end of the bootstrap 95 % interval", None),
    "high": ("Upper end of the bootstrap 95 % interval", None),
    "n": ("Number of units", None),
    "unit": ("What was resampled or paired: subjects, or slices where there is one subject", None),
    "first": ("Method", None),
    "second": ("Method that it is compared with", None),
    "difference": ("Mean over the units of first minus second", None),
    "p": ("Two-sided p of Wilcoxon's signed-rank test; none for fewer than 5 subjects", None),
    "p_holm": ("The same after Holm's correction over the pairs of methods of a table", None),
}  # fmt: skip


def of(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Column -> description and units, of the columns that the rows have."""
    names = dict.fromkeys(name for row in rows for name in row)
    return data_dictionary({name: _COLUMNS[name] for name in names})
