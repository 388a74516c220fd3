"""Simulated heads (benchmarks/heads.py), bent from the template at 2 mm: nothing of them is measured."""

import heads
import nibabel as nib
import numpy as np
import pytest
from arrange import begin_dataset
from scipy import ndimage


@pytest.fixture(scope="module")
def template():
    whole = heads.load_template()
    affine = whole.world_from_voxel @ np.diag([2.0, 2, 2, 1])
    return heads.Template(whole.probabilities[:, ::2, ::2, ::2], whole.fine[::2, ::2, ::2], affine)


@pytest.fixture(scope="module")
def dataset(template, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads") / "bids"
    begin_dataset(folder, "Simulated heads")
    for number in range(2):
        heads.write_head(template, number, folder, crop=False)
    return folder


def images(dataset, number):
    stem = f"sub-sim{number:02d}"
    masks = dataset / "derivatives" / "masks" / stem / "anat"
    files = {name: dataset / stem / "anat" / f"{stem}_{name}.nii.gz" for name in ("T1w", "FLAIR", "T2w")}
    files |= {"brain": masks / f"{stem}_desc-brain_mask.nii.gz"}
    files |= {"lesion": masks / f"{stem}_label-lesion_mask.nii.gz"}
    return {name: np.asarray(nib.load(path).dataobj) for name, path in files.items()}


def test_lesions_are_seen_in_the_targets_and_not_in_the_t1w(dataset):
    """What the T1w shows as white matter, and no shade of it, is brighter inside the mask."""
    found = images(dataset, 1)
    lesion, white = ndimage.binary_erosion(found["lesion"] > 0), found["T1w"] > 800

    def contrast(name):
        return np.median(found[name][lesion & white]) - np.median(found[name][white & (found["lesion"] == 0)])

    assert (lesion & white).sum() > 50
    assert contrast("FLAIR") > 200
    assert contrast("T2w") > 200
    assert abs(contrast("T1w")) < 0.2 * contrast("FLAIR")


def test_heads_differ_in_size_shape_and_contrast(dataset):
    one, other = (images(dataset, number) for number in (1, 2))
    assert one["T1w"].shape != other["T1w"].shape
    assert one["brain"].sum() != other["brain"].sum()
    shape = np.minimum(one["brain"].shape, other["brain"].shape)
    i, j, k = (slice(n) for n in shape)
    both = (one["brain"] > 0)[i, j, k] & (other["brain"] > 0)[i, j, k]
    alike = np.corrcoef(one["T1w"][i, j, k][both], other["T1w"][i, j, k][both])[0, 1]
    assert alike < 0.6


def test_the_contrasts_of_a_head_have_borders_in_common_and_grain_of_their_own(dataset):
    found = images(dataset, 1)
    white = ndimage.binary_erosion(found["T1w"] > 800, iterations=2) & (found["lesion"] == 0)
    assert abs(np.corrcoef(found["T1w"][white], found["T2w"][white])[0, 1]) < 0.9
    brain = found["brain"] > 0
    assert np.corrcoef(found["T1w"][brain], found["T2w"][brain])[0, 1] < -0.7
    assert (found["FLAIR"][~brain] == 0).all()
