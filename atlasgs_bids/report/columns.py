"""What each column of ``desc-sr_metrics.tsv`` means: the JSON dictionary beside it."""

from typing import Any

from atlasgs_bids.runtime.files import data_dictionary

_COLUMNS: dict[str, tuple[str, str | None]] = {
    "consistency_rms": ("RMS of acquired minus simulated slices, over the observed voxels", "arbitrary"),
    "consistency_to_noise": ("consistency_rms over noise_sd; at most 1 where prior and slices agree", None),
    "noise_sd": ("Noise of the acquired slices: the model's misfit over its degrees of freedom", "arbitrary"),
    "sharpness_before": (
        "RMS slope through the slices over RMS slope within them, cubic interpolation; 1: isotropic", None
    ),
    "sharpness_after": ("The same of the result", None),
    "edge_agreement_before": ("Correlation of the edges with the anchor's, cubic interpolation", None),
    "edge_agreement_after": ("The same of the result", None),
    "registration_rotation": (
        "Rotation from the headers' position to the registered one; of several stacks the largest", "degree"
    ),
    "registration_translation": ("Displacement of the centre of the anchor's foreground", "mm"),
    "registration_displacement": ("Mean displacement over the anchor's foreground", "mm"),
    "registration_method": (
        "rigid: registered; deformable: and displaced; header: as in the headers; derivative: as given", None
    ),
    "registration_error": (
        "Standard error of that position over the anchor's foreground; n/a where the headers were taken",
        "mm",
    ),
    "distortion_mean": (
        "Mean displacement (along the phase encoding, or as given) over the anchor's foreground; n/a: none",
        "mm",
    ),
    "distortion_max": ("Largest of them", "mm"),
    "distortion_gain": (
        "Part of the squared error on held-out slices that it saves; n/a: they were not asked", None
    ),
    "distortion_gain_error": ("Standard error of distortion_gain", None),
    "motion_translation": (
        "Largest translation of a volume, or of a slice with --motion slice; n/a: none was looked for",
        "mm",
    ),
    "motion_rotation": ("Largest rotation, likewise", "degree"),
    "framewise_displacement": ("Series: its mean over the volumes (Power et al. 2012)", "mm"),
    "n_lost_slices": ("Series: slices that lost their signal and took no part", None),
    "fov_coverage": ("Part of the anchor's foreground inside the target's field of view", None),
    "n_stacks": ("Stacks that were restored together", None),
    "n_volumes": ("Volumes of the series; the other columns are of the mean of its reference volumes", None),
    "slice_thickness": ("Slice thickness used", "mm"),
    "slice_spacing": ("Distance between slice centres", "mm"),
    "profile_sd": (
        "Standard deviation of the slice profile as the slices show it, of a box its width / 3.46; else n/a",
        "mm",
    ),
    "profile_sd_error": ("Standard error of profile_sd", "mm"),
    "n_gaussians": ("Gaussians that render the target", None),
    "n_gaussians_specific": ("Those of them that are the target's own", None),
    "anchor_psnr": ("PSNR of the anchor rendered from the scaffold, in its foreground", "dB"),
    "regularization": ("Weight of the prior, by generalised cross-validation", None),
    "held_out_rms": ("RMS error on every fifth slice, predicted from the others at weight 0.1", "arbitrary"),
    "trust": (
        "Factor on the learned prior at which the slices are honoured; 1: they agree; empty: no such prior",
        None,
    ),
    "anchor_gain": (
        "Part of the network's squared error within slices that the anchor saves against it upside down", None
    ),
    "follows_anchor": (
        "False: cross-validation is better without the anchor, which the result does not follow", None
    ),
    "prior_disagrees": (
        "Part of the slices' voxels in which they and the prior disagree beyond the noise",
        None,
    ),
    "sd_median": (
        "Median standard deviation of the error of the result, or of a reference volume; n/a: not asked for",
        "arbitrary",
    ),
    "sd_noise_median": ("The same of the part that the noise of the slices makes", "arbitrary"),
    "trusted_part": ("Part of the foreground in the field of view that desc-*trusted_mask holds", None),
    "trusted_risk": (
        "Part of the trusted voxels of held-out slices that err by more than half the local contrast", None
    ),
    "untrusted_risk": ("The same of all voxels of those slices", None),
    "contradicted_regions": (
        "Regions in which the slices contradict anchor or image (desc-*flags_dseg); n/a: not asked for", None
    ),
    "contradicted_volume": ("Their volume", "mm^3"),
    "misaligned_regions": ("Regions in which the slices show the head elsewhere than the anchor", None),
    "misaligned_volume": ("Their volume", "mm^3"),
    "difference_to_noise": (
        "ASL: RMS of acquired minus simulated mean difference of control and label, over its noise", None
    ),
    "solver_iterations": ("Conjugate gradient steps of the last solve", None),
    "solver_relative_residual": ("Relative residual at which the last solve ended", None),
    "solver_converged": ("Whether that is below the tolerance", None),
    "seconds_scaffold": ("Time to fit the scaffold; 0 where it was reused", "s"),
    "seconds_registration": ("Time to register, beside other work", "s"),
    "seconds_calibration": ("Time to find position, slice profile and displacement from the evidence", "s"),
    "seconds_appearance": ("Time to fit the amplitudes", "s"),
    "seconds_uncertainty": ("Time to find how far volumes of a series may be off", "s"),
    "seconds_render": ("Time to render the result and the simulated slices", "s"),
    "seconds_writing": ("Time to write images, sidecars and figures", "s"),
    "peak_memory": ("Peak resident memory of the process so far", "MiB"),
    "peak_gpu_memory": ("Peak memory that tensors held on the GPU so far", "MiB"),
    "device": ("Where it was computed", None),
}  # fmt: skip

_LONGITUDINAL_COLUMNS: dict[str, tuple[str, str | None]] = {
    "other_image": ("The other session's anchor", None),
    "explained_variance": (
        "Part of its variance in the foreground that the registered scaffold explains", None
    ),
    "registration_rotation": ("Rotation from the headers' position to the registered one", "degree"),
    "registration_displacement": ("Mean displacement over the anchor's foreground", "mm"),
}  # fmt: skip

_CONFOUNDS: dict[str, tuple[str, str | None]] = {
    **{
        f"trans_{axis}": (f"Translation of the head's centre along {axis} (RAS), from the reference", "mm")
        for axis in "xyz"
    },
    **{f"rot_{axis}": (f"Rotation vector of the head, {axis} (RAS)", "rad") for axis in "xyz"},
    "framewise_displacement": (
        "Sum of the changes of translations and of rotations on a sphere of 50 mm (Power et al. 2012)", "mm"
    ),
    "position_error": (
        "Standard error of the position, mean over the head", "mm"
    ),
    "moved": ("False: the evidence does not tell its position from the reference's, which it has", None),
    "n_lost_slices": ("Slices that lost their signal and took no part", None),
    "lost_slices": ("Their indices along the slice axis, from 0", None),
}  # fmt: skip

_MOTION_COLUMNS: dict[str, tuple[str, str | None]] = {
    "slice": ("Index of the slice along the slice axis", None),
    **{
        f"translation_{axis}": (f"Translation of the head's centre along {axis} (RAS), from the stack", "mm")
        for axis in "xyz"
    },
    **{f"rotation_{axis}": (f"Rotation vector, {axis} (RAS)", "degree") for axis in "xyz"},
    "gain": ("Intensity of the slice over that of the stack", None),
    "estimated": ("False where it shows too little of the head and has the position of its pass", None),
}


def metrics_dictionary() -> dict[str, dict[str, Any]]:
    """Column name -> its description and units, as BIDS data dictionaries have them."""
    return data_dictionary(_COLUMNS)


def motion_dictionary() -> dict[str, dict[str, Any]]:
    """The same for ``desc-motion_metrics.tsv``."""
    return data_dictionary(_MOTION_COLUMNS)


def confounds_dictionary() -> dict[str, dict[str, Any]]:
    """The same for ``desc-confounds_timeseries.tsv``."""
    return data_dictionary(_CONFOUNDS)


def longitudinal_dictionary() -> dict[str, dict[str, Any]]:
    """The same for ``desc-longitudinal_metrics.tsv``."""
    return data_dictionary(_LONGITUDINAL_COLUMNS)
