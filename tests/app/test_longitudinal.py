"""Two sessions on one scaffold: what did not change differs by noise, a lesion that grew shows."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from atlasgs_bids import run
from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.bids.outputs.names import target_outputs
from atlasgs_bids.bids.plan.settings import PlanSettings
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.settings import RestorationSettings
from tests.bids_datasets import Dataset
from tests.imaging import phantom

SIZE_MM, SLICE_MM, NOISE = 4, 10.0, 2.0
LESION_MM, LESION = (-28.0, -10.0, 26.0), 115.0
SESSIONS = {
    # Radius of the lesion, mm; turn of the slices, degrees; their shift, mm.
    "a": (6.0, (8, 0, 0), 0.0),
    "b": (12.0, (-6, 5, 3), 4.3),
}


def brain_with_lesion(radius_mm):
    image = phantom.head(phantom.FLAIR, SIZE_MM, with_scalp=False)
    return Volume(np.where(lesion(image, radius_mm), LESION, image.data), image.world_from_voxel)


def lesion(image, radius_mm):
    voxels = np.moveaxis(np.indices(image.data.shape), 0, -1)
    world_mm = voxels @ image.world_from_voxel[:3, :3].T + image.world_from_voxel[:3, 3]
    return np.linalg.norm(world_mm - np.array(LESION_MM), axis=-1) < radius_mm


def slices_of(radius_mm, angles_deg, shift_mm):
    image = brain_with_lesion(radius_mm)
    tilt = phantom.rigid(angles_deg, (0, 0, 0), (0, 0, 0))[:3, :3]
    shape, affine = phantom.stack_affine(image, 2, SIZE_MM, SLICE_MM, tilt)
    affine[:3, 3] += shift_mm * tilt[:, 2]
    return phantom.acquire(image, shape, affine, np.eye(4), NOISE)


@pytest.fixture(scope="module")
def differences(tmp_path_factory):
    """Second minus first session, restored and interpolated; and where both were seen."""
    root = tmp_path_factory.mktemp("longitudinal")
    dataset = Dataset.create(root / "bids")
    t1w = phantom.head(phantom.T1W, SIZE_MM, with_scalp=False, noise=NOISE)
    dataset.add("01", "T1w", session="a", data=t1w.data, world_from_voxel=t1w.world_from_voxel)
    stacks = {session: slices_of(*how) for session, how in SESSIONS.items()}
    for session, stack in stacks.items():
        dataset.add(
            "01", "FLAIR", session=session, data=stack.data, world_from_voxel=stack.world_from_voxel,
            sidecar={"SliceThickness": SLICE_MM},
        )  # fmt: skip
    config = RunConfig(
        root / "bids", root / "out", "participant", skip_bids_validation=True,
        plan=PlanSettings(anchor_session="a"),
        # Position and profile are told: finding them has tests of its own, and takes half of the time.
        restoration=RestorationSettings(
            device="cpu", registration="header", slice_profile="box", estimate_uncertainty=False
        ), viewer=False,
    )  # fmt: skip
    assert run(config) == 0
    entities = {"subject": "01", "suffix": "FLAIR", "datatype": "anat"}
    outputs = [target_outputs(root / "out", {**entities, "session": session}) for session in "ab"]
    one, two = (load_volume(own.sr) for own in outputs)
    assert one.data.shape == two.data.shape
    np.testing.assert_array_equal(one.world_from_voxel, two.world_from_voxel)
    seen = np.all([nib.load(own.fov_mask).get_fdata() > 0 for own in outputs], axis=0)
    grid = brain_with_lesion(0).grid
    cubic = [resample(stacks[session], grid, order=3) for session in "ab"]
    return two.data - one.data, cubic[1] - cubic[0], seen & (brain_with_lesion(0).data > 0)


def rms(values):
    return float(np.sqrt((values**2).mean()))


def elsewhere(seen):
    """What is a slice away from the lesion or more."""
    n_voxels = round(SLICE_MM / SIZE_MM)
    near = ndimage.binary_dilation(lesion(brain_with_lesion(0), SESSIONS["b"][0]), iterations=n_voxels)
    return seen & ~near


def test_what_did_not_change_differs_by_the_noise_of_the_slices(differences):
    restored, interpolated, seen = differences
    same = elsewhere(seen)
    # Two voxels of the slices differ by √2 times their noise.
    assert rms(restored[same]) < np.sqrt(2) * NOISE
    assert rms(restored[same]) < 0.6 * rms(interpolated[same])
    assert abs(restored[same].mean()) < 0.1 * NOISE


def test_the_grown_lesion_shows_and_nothing_else_does(differences):
    restored, _, seen = differences
    image = brain_with_lesion(0)
    grown = lesion(image, SESSIONS["b"][0]) & ~lesion(image, SESSIONS["a"][0])
    truth = LESION - image.data[grown].mean()
    assert 0.5 * truth < restored[grown].mean() < 1.2 * truth
    bright = seen & (restored > 0.4 * truth)
    assert bright[grown].mean() > 0.5
    assert not (bright & elsewhere(seen)).any()
