"""--resolution native: files, grid and sidecars where pixels are half as large as the voxels of the T1w."""

import json

import nibabel as nib
import numpy as np

from atlasgs_bids.bids.outputs.names import target_outputs
from tests.bids_datasets import FIELD_OF_VIEW_MM, Dataset
from tests.runs import atlasgs
from tests.validation import validator_errors

PIXEL_MM = 1.5


def test_results_are_isotropic_at_the_size_of_the_pixels(tmp_path):
    dataset = Dataset.create(tmp_path / "bids").add_participant("01", "T2w")
    dataset.add("01", "FLAIR", voxel_mm=(PIXEL_MM, PIXEL_MM, 9.0))
    out_dir = tmp_path / "out"
    code, _, log = atlasgs(dataset.root, out_dir, "--resolution", "native", "--n-gaussians", "200000")
    assert code == 0, log
    for suffix, size_mm in (("FLAIR", PIXEL_MM), ("T2w", 3.0)):
        entities = {"subject": "01", "suffix": suffix, "datatype": "anat"}
        files = target_outputs(out_dir, entities, "native")
        assert f"space-T1w_res-native_desc-sr_{suffix}" in files.sr.name
        image = nib.load(files.sr)
        np.testing.assert_allclose(image.header.get_zooms(), size_mm, rtol=1e-5)
        assert image.shape == (round(FIELD_OF_VIEW_MM / size_mm),) * 3
        assert nib.load(files.srstd).shape == nib.load(files.fov_mask).shape == image.shape
        said = json.loads(files.sr_json.read_text("utf-8"))
        assert said["Resolution"] == " x ".join([f"{size_mm:.3g}"] * 3) + " mm (native)"
        scaffold = json.loads(files.scaffold_json.read_text("utf-8"))
        assert (scaffold["NumberOfSpecificGaussians"] > 0) == (suffix == "FLAIR")
        stored = np.load(files.scaffold_npz)
        assert len(stored["specific_amplitudes"]) == scaffold["NumberOfSpecificGaussians"]
    assert validator_errors(out_dir) == []
