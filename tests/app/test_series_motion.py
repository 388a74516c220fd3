"""A diffusion series in which two volumes moved, through the real command: table, figure, bvecs, sidecar."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from atlasgs_bids.imaging.registration.itk_files import read_itk_transform
from atlasgs_bids.runtime.files import load_json, load_tsv
from tests.acquisitions import fsl_directions, world_directions
from tests.bids_datasets import Dataset
from tests.imaging.phantom import T1W, head
from tests.restoration.test_volume_positions import (
    B_VALUES,
    DIRECTIONS,
    LOST,
    MOVED,
    SIZE_MM,
    positions,
    series_of,
)
from tests.runs import finished
from tests.validation import validator_errors

OPTIONS = (
    "--device", "cpu", "--regularization", "0.1", "--slice-profile", "box", "--registration", "header",
    "--no-viewer", "--skip-bids-validation", "--motion", "volume",
)  # fmt: skip


def dataset(root: Path, moved) -> Path:
    acquired = series_of(moved, 1.0)
    anchor = head(T1W, SIZE_MM, with_scalp=False)
    own = Dataset.create(root / "bids")
    own.add("01", "T1w", data=anchor.data, world_from_voxel=anchor.world_from_voxel)
    # The scanner's directions: those of the head, turned with it.
    turned = np.einsum("vij,vj->vi", positions(moved)[:, :3, :3], DIRECTIONS)
    data = acquired.data.copy()
    if moved:
        data[:, :, LOST[1], LOST[0]] *= 0.3
    bvecs = fsl_directions(turned, acquired.world_from_voxel)
    own.add_diffusion("01", data, acquired.world_from_voxel, B_VALUES, bvecs)
    return root


def run(root: Path, out: str, *options: str):
    done = finished("atlasgs_bids.app.cli", root / "bids", root / out, "participant", *OPTIONS, *options)
    assert done.returncode == 0, done.stderr
    return root / out / "sub-01"


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("moving"), MOVED)


@pytest.fixture(scope="module")
def out(moving):
    return run(moving, "out")


def test_the_table_says_where_the_volumes_lay_and_what_they_lost(out):
    rows = load_tsv(out / "dwi/sub-01_mod-dwi_desc-confounds_timeseries.tsv")
    assert [v for v, row in enumerate(rows) if row["moved"] == "True"] == sorted(MOVED)
    assert [(v, row["lost_slices"]) for v, row in enumerate(rows) if row["n_lost_slices"] != "0"] == [
        (LOST[0], str(LOST[1]))
    ]
    for v, motion in MOVED.items():
        found = [float(rows[v][f"rot_{axis}"]) for axis in "xyz"]
        cosine = (np.trace(motion[:3, :3]) - 1) / 2
        assert np.linalg.norm(found) == pytest.approx(np.arccos(cosine), abs=np.radians(0.3))
    assert rows[0]["framewise_displacement"] == "n/a"
    assert float(rows[1]["framewise_displacement"]) == 0
    assert float(rows[2]["framewise_displacement"]) > 3
    columns = load_json(out / "dwi/sub-01_mod-dwi_desc-confounds_timeseries.json")
    assert set(columns) == set(rows[0])
    assert columns["rot_x"]["Units"] == "rad"


def test_every_direction_is_turned_with_its_volume(out):
    image = out / "dwi/sub-01_space-T1w_res-iso_desc-sr_dwi.nii.gz"
    bvecs = np.loadtxt(str(image).replace(".nii.gz", ".bvec")).T
    in_head = world_directions(bvecs, nib.load(image).affine)
    weighted = B_VALUES > 0
    cosines = np.abs((in_head * DIRECTIONS).sum(1)[weighted])
    # In voxels of 6 mm and slices of 12 mm; not turned with its volume, one is 3.6 degrees off.
    assert np.degrees(np.arccos(np.clip(cosines, -1, 1))).max() < 0.5


def test_figure_sidecar_and_metrics_tell_of_it(out):
    assert (out / "figures/sub-01_space-T1w_res-iso_desc-confounds_dwi.png").exists()
    page = (out.parent / "sub-01.html").read_text("utf-8")
    assert "Movement of every volume" in page
    sidecar = json.loads((out / "dwi/sub-01_space-T1w_res-iso_desc-sr_dwi.json").read_text())
    assert sidecar["Motion"] == "volume"
    assert (sidecar["MovedVolumes"], sidecar["LostSlices"]) == (2, 1)
    (row,) = load_tsv(out / "dwi/sub-01_mod-dwi_space-T1w_res-iso_desc-sr_metrics.tsv")
    assert float(row["motion_rotation"]) == pytest.approx(np.linalg.norm([3, -1, 2]), abs=0.3)
    assert row["n_lost_slices"] == "1"
    assert validator_errors(out.parent) == []


def test_volumes_that_moved_share_the_map_of_those_that_did_not(out):
    image = nib.load(out / "dwi/sub-01_space-T1w_res-iso_desc-srstd_dwi.nii.gz")
    sidecar = load_json(out / "dwi/sub-01_space-T1w_res-iso_desc-srstd_dwi.json")
    assert sidecar["Kinds"] == ["b0", "b1000"]
    assert sidecar["MapOfVolume"] == [int(b > 0) for b in B_VALUES]
    assert image.shape[3] == 2
    assert np.isfinite(image.get_fdata()).all()
    assert (image.get_fdata().max(axis=(0, 1, 2)) > 0).all()


def test_figures_can_be_drawn_again(moving, out):
    names = ("confounds", "b0", "b1000")
    paths = [out / f"figures/sub-01_space-T1w_res-iso_desc-{name}_dwi.png" for name in names]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    run(moving, "out", "--reports-only")
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.slow
def test_a_series_that_lies_still_has_the_bytes_of_no_correction(tmp_path):
    root = dataset(tmp_path, {})
    still, none = run(root, "still"), run(root, "none", "--motion", "none")
    names = [
        path.relative_to(none) for path in none.glob("dwi/*") if path.suffix in (".gz", ".bvec", ".bval")
    ]
    assert len(names) > 6
    for name in names:
        assert (still / name).read_bytes() == (none / name).read_bytes(), name
    assert not list(none.glob("**/*confounds*"))
    rows = load_tsv(still / "dwi/sub-01_mod-dwi_desc-confounds_timeseries.tsv")
    assert {row["moved"] for row in rows} == {"False"}
    transforms = [read_itk_transform(next(own.glob("dwi/*_xfm.txt"))) for own in (still, none)]
    np.testing.assert_array_equal(*transforms)
