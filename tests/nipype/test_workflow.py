"""The interface and the workflow, run for real by Nipype on a tiny head."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

os.environ["NO_ET"] = "1"  # Nipype asks a server for its newest version as it is imported.
pytest.importorskip("nipype")

from nipype.pipeline import engine as pe
from traits.api import TraitError

from atlasgs_bids.imaging.registration.itk_files import read_itk_transform
from atlasgs_bids.nipype import AtlasGS, init_atlasgs_wf
from tests.bids_datasets import head

SETTINGS = {"device": "cpu", "registration": "header", "prior": "graph"}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for suffix, voxel_mm in (("T1w", (6.0, 6.0, 6.0)), ("FLAIR", (6.0, 6.0, 12.0))):
        nib.save(nib.Nifti1Image(*head(suffix, voxel_mm)), folder / f"{suffix}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def outputs(scans, tmp_path_factory):
    """What a parent workflow gets of it."""
    flow = init_atlasgs_wf(**SETTINGS)
    flow.inputs.inputnode.t1w = str(scans / "T1w.nii.gz")
    flow.inputs.inputnode.in_files = str(scans / "FLAIR.nii.gz")
    flow.inputs.inputnode.thickness_mm = 12.0
    parent = pe.Workflow(name="parent", base_dir=str(tmp_path_factory.mktemp("work")))
    parent.add_nodes([flow])
    nodes = {node.name: node for node in parent.run(plugin="Linear").nodes()}
    return nodes["atlasgs"].result.outputs


def test_the_result_is_on_the_t1ws_grid_and_all_files_are_there(outputs, scans):
    image, t1w = nib.load(outputs.out_file), nib.load(scans / "T1w.nii.gz")
    np.testing.assert_allclose(image.affine, t1w.affine, atol=1e-4)
    truth = head("FLAIR", (6.0, 6.0, 6.0))[0]
    inside = truth > 100
    assert np.corrcoef(image.get_fdata()[inside], truth[inside])[0, 1] > 0.5
    for path in (outputs.out_sd, outputs.out_fov):
        assert nib.load(path).shape == image.shape
    assert nib.load(outputs.out_simulated).shape == nib.load(scans / "FLAIR.nii.gz").shape
    np.testing.assert_allclose(read_itk_transform(outputs.out_xfm), np.eye(4), atol=1e-9)
    assert json.loads(Path(outputs.out_metrics).read_text())["registration_method"] == "header"
    assert Path(outputs.out_file).name == "FLAIR_sr.nii.gz"
    assert "atlasgs_wf" in outputs.out_file, "in the node's own folder"


def test_the_description_says_what_is_done():
    assert "headers" in init_atlasgs_wf(**SETTINGS).__desc__
    assert "mutual information" in init_atlasgs_wf().__desc__


def test_wrong_settings_are_refused():
    with pytest.raises(TraitError, match="registration"):
        AtlasGS(registration="affine")
    with pytest.raises(TraitError):
        init_atlasgs_wf(smooth=True)
