"""Images in, images out: a thick FLAIR restored from Python, without a BIDS dataset.

Run it as it is on the demo's data (make demo), or cell by cell in an editor that knows ``# %%``:

    python examples/restore_in_python.py demo-output/bids/sub-01/anat/sub-01_{T1w,FLAIR}.nii.gz
"""

# %% What comes in: paths, nibabel images or (array, affine) pairs
import sys

import nibabel as nib
import numpy as np

import atlasgs_bids as ag

t1w, flair = sys.argv[1:3]

# %% The Gaussians of the T1w serve every target
settings = ag.Settings(device="auto", registration="rigid")
scaffold = ag.fit_scaffold(t1w, settings)
print(f"{len(scaffold.gaussians)} Gaussians render the T1w at {scaffold.anchor_psnr_db:.1f} dB")

# %% One target; a list of images would be one target in several stacks
thickness_mm = float(max(nib.load(flair).header.get_zooms()))
result = ag.restore(scaffold, flair, thickness_mm=thickness_mm, settings=settings)
print(f"{nib.load(flair).shape} slices -> {result.image.shape} voxels")

# %% What is known of it
for text in result.warnings:
    print("look at this:", text)
print(f"moved by {result.registration.displacement_mm:.1f} mm")
print(f"residual over noise: {result.metrics['consistency_to_noise']:.2f}")
print(f"median standard deviation: {np.median(result.sd.get_fdata()[result.fov.get_fdata() > 0]):.1f}")

# %% Any other view, straight from the Gaussians: here one oblique plane through the middle
middle_mm = nib.affines.apply_affine(result.image.affine, (np.array(result.image.shape) - 1) / 2)
oblique = result.render(result.model.plane(middle_mm, (0, 0.5, 0.87)))
print(f"an oblique plane of {oblique.shape[:2]} pixels, mean {oblique.get_fdata().mean():.1f}")

# %% Nothing was written so far; what to keep is yours to say
if len(sys.argv) > 3:
    nib.save(result.image, sys.argv[3])
