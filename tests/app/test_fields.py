"""Displacement fields of other pipelines through one run of the app: the head that they undistort is known.

The images of sub-01 are bent and lie elsewhere than their headers say: composites of ITK know how. Those of
sub-02 are the same; of them only the affine parts are known.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.core.settings import AppearanceSettings, CoreSettings, ScaffoldSettings
from atlasgs_bids.imaging.displacement import read_displacement
from atlasgs_bids.imaging.itk import itk_affine
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.files import load_tsv
from tests.bids_datasets import Dataset, affine_of, head
from tests.imaging.phantom import rigid
from tests.runs import run_logged
from tests.validation import validator_errors

CORE = CoreSettings(
    scaffold=ScaffoldSettings(n_steps=3),
    appearance=AppearanceSettings(regularization=0.05, max_iterations=30),
)
POSE = rigid([3, -6, 8], [6, -4, 5], np.zeros(3))
CENTRE, PEAK_MM, WIDTH_MM = np.array([0.0, 12.0, 0.0]), 6.0, 14.0
FINE_MM, SLICE_MM = (3.0, 3.0, 1.5), 6.0
LPS = np.array([-1.0, -1, 1])
CONTEXT = ("control", "label")


def shift_mm(points):
    """6 mm forwards in the front half."""
    return PEAK_MM * np.exp(-((points - CENTRE) ** 2).sum(-1) / (2 * WIDTH_MM**2))


def undone(points):
    """What is shown at the points."""
    source = points.copy()
    for _ in range(50):
        source[..., 1] = points[..., 1] - shift_mm(source)
    return source


def centres(shape, affine):
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def slices(suffix):
    """Slices of 6 mm of the bent head, its signal kept, and where their header has them."""
    whole, affine = head(suffix, (1.5,) * 3)
    shape = tuple(round(72 / side) for side in FINE_MM)
    world_from_voxel = affine_of(FINE_MM, shape)
    source = undone(centres(shape, world_from_voxel))
    stretch = 1 - shift_mm(source) * (source[..., 1] - CENTRE[1]) / WIDTH_MM**2
    voxels = (source - affine[:3, 3]) / 1.5
    bent = ndimage.map_coordinates(whole, np.moveaxis(voxels, -1, 0), order=1) / stretch
    thick = bent.reshape(*shape[:2], -1, round(SLICE_MM / FINE_MM[2])).mean(-1)
    return thick.astype(np.float32), POSE @ affine_of((3.0, 3.0, SLICE_MM), thick.shape)


def field(shift, n=24):
    """ITK field of a shift along y on n³ voxels of 3 mm around the origin."""
    affine = affine_of((3.0,) * 3, (n, n, n))
    vectors_lps = np.zeros((n, n, n, 3))
    vectors_lps[..., 1] = -shift(centres((n, n, n), affine)).transpose(2, 1, 0)
    image = SimpleITK.GetImageFromArray(vectors_lps, isVector=True)
    image.SetSpacing((3.0,) * 3)
    image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
    image.SetOrigin((affine[:3, 3] * LPS).tolist())
    return SimpleITK.DisplacementFieldTransform(image)


@dataclass(frozen=True)
class Restored:
    out_dir: Path
    exit_code: int
    log: str

    def path(self, name, datatype="dwi", participant="01"):
        return self.out_dir / f"sub-{participant}" / datatype / f"sub-{participant}_{name}"


@pytest.fixture(scope="module")
def restored(tmp_path_factory):
    root = tmp_path_factory.mktemp("fields")
    dataset = Dataset.create(root / "bids")
    for participant in ("01", "02"):
        dataset.add(participant, "T1w")
        b0, affine = slices("T2w")
        series = np.stack([b0, 0.5 * b0], axis=-1)
        directions = np.array([[0.0, 0, 0], [1, 0, 0]])
        dataset.add_diffusion(participant, series, affine, np.array([0.0, 1000]), directions)
    perfusion, affine = slices("PDw")
    dataset.add_labelling("01", np.stack([perfusion, perfusion - 20], axis=-1), affine, CONTEXT)
    # Encoded otherwise than the series, for all that its sidecar says: the field is the series' own.
    dataset.add("01", "m0scan", data=perfusion, world_from_voxel=affine, voxel_mm=(3.0, 3.0, SLICE_MM),
                sidecar={"RepetitionTimePreparation": 6.0, "EchoTime": 0.012,
                         "PhaseEncodingDirection": "j-"})  # fmt: skip
    for suffix in ("FLAIR", "T2w"):
        data, affine = slices(suffix)
        voxel_mm = (3.0, 3.0, SLICE_MM)
        dataset.add("01", suffix, data=data, world_from_voxel=affine, voxel_mm=voxel_mm)
    pipeline(root / "pipeline")
    config = RunConfig(
        root / "bids",
        root / "out",
        "participant",
        derivatives={"pipeline": root / "pipeline"},
        restoration=RestorationSettings(
            device="cpu", slice_profile="box", prior="graph", estimate_uncertainty=False, core=CORE
        ),
        skip_bids_validation=True,
        viewer=False,
    )
    code, log = run_logged(config, root / "log.txt")
    return Restored(root / "out", code, log)


def pipeline(root):
    made = Dataset.create(root, DatasetType="derivative", GeneratedBy=[{"Name": "Pipeline"}])
    for participant in ("01", "02"):
        made.add(participant, "T1w", entities="desc-preproc")
    position, there = itk_affine(POSE), field(shift_mm)
    away, back = itk_affine(np.linalg.inv(POSE)), field(lambda p: (undone(p) - p)[..., 1])
    files = {
        "01/dwi/sub-01_from-dwi_to-T1w": (position, there),
        "01/perf/sub-01_from-T1w_to-aslref": (back, away),
        "01/perf/sub-01_from-m0scan_to-aslref": (itk_affine(np.eye(4)),),
        "01/anat/sub-01_from-FLAIR_to-T1w": (position, field(lambda p: -5 * shift_mm(p))),
        "01/anat/sub-01_from-T2w_to-T1w": (position, field(shift_mm, n=14)),
        "02/dwi/sub-02_from-dwi_to-T1w": (position,),
    }
    for name, parts in files.items():
        path = root / f"sub-{name}_mode-image_xfm.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        SimpleITK.WriteTransform(SimpleITK.CompositeTransform(list(parts)), str(path))


def points_of_head():
    """(n, 3)"""
    points = centres((24,) * 3, affine_of((3.0,) * 3, (24,) * 3)).reshape(-1, 3)
    return points[((points / [26, 30, 24]) ** 2).sum(1) < 0.9]


def off_mm(restored, name, datatype):
    """How far from the truth the written field takes points of the head."""
    found = read_displacement(restored.path(f"{name}_mode-image_desc-deformable_xfm.nii.gz", datatype))
    points = points_of_head()
    true = points.copy()
    true[:, 1] += shift_mm(points)
    true = true @ POSE[:3, :3].T + POSE[:3, 3]
    return np.linalg.norm(points + found.at(points) - true, axis=1)


@pytest.mark.parametrize(("suffix", "datatype"), [("dwi", "dwi"), ("asl", "perf"), ("m0scan", "perf")])
def test_points_are_where_the_field_has_them_whichever_way_it_goes(restored, suffix, datatype):
    """That of the DWI goes there, that of the ASL comes back, the M0's leads to the ASL first."""
    off = off_mm(restored, f"from-{suffix}_to-T1w", datatype)
    assert off.mean() < 0.02
    assert off.max() < 0.2


def decibels(restored, participant):
    """Of the b0 where the head is displaced by more than 2 mm."""
    path = restored.path("space-T1w_res-iso_desc-sr_dwi.nii.gz", participant=participant)
    image = nib.load(path)
    truth, affine = head("T2w")
    np.testing.assert_allclose(image.affine, affine, atol=1e-3)
    points = centres(truth.shape, affine)
    inside = ((points / [26, 30, 24]) ** 2).sum(-1) < 0.8
    return psnr_db(truth, image.get_fdata()[..., 0].astype(np.float32), inside & (shift_mm(points) > 2))


def test_the_result_is_the_head_that_is_not_bent(restored):
    """18.3 dB, and 14.7 dB with the affine part alone."""
    assert decibels(restored, "01") > decibels(restored, "02") + 3


def test_files_tell_of_it(restored):
    name = "sub-01_from-dwi_to-T1w_mode-image_xfm.h5"
    sidecar = json.loads(restored.path("space-T1w_res-iso_desc-sr_dwi.json").read_text())
    assert sidecar["Sources"][-1] == f"bids:pipeline:sub-01/dwi/{name}"
    (row,) = load_tsv(restored.path("mod-dwi_space-T1w_res-iso_desc-sr_metrics.tsv"))
    assert row["registration_method"] == "derivative"
    assert 3 < float(row["distortion_max"]) < 6, "2 mm of the 6 mm are in the position"
    assert row["distortion_gain"] == "n/a"
    assert len(list((restored.out_dir / "sub-01/figures").glob("*_desc-distortion_dwi.png"))) == 1
    page = (restored.out_dir / "sub-01.html").read_text()
    assert "how far points of the head are displaced" in page
    assert "Displacement fields of another pipeline were part of the model" in page
    assert validator_errors(restored.out_dir) == []


def test_what_cannot_be_used_fails_its_target_alone(restored):
    assert restored.exit_code == 1
    assert "from-FLAIR_to-T1w_mode-image_xfm.h5: the displacement folds" in restored.log
    assert "from-T2w_to-T1w_mode-image_xfm.h5: of" in restored.log
    for suffix in ("FLAIR", "T2w"):
        assert not restored.path(f"space-T1w_res-iso_desc-sr_{suffix}.nii.gz", "anat").exists()
