"""Names, sidecars and root files of the derivative dataset, judged by the BIDS validator."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from atlasgs_bids.bids.inputs.discover import discover_participant
from atlasgs_bids.bids.outputs.dataset import DESCRIPTIONS, write_dataset_files
from atlasgs_bids.bids.outputs.names import (
    anchor_outputs,
    bids_uri,
    derivative_path,
    image_sidecar,
    json_path,
    resolution_label,
    target_outputs,
)
from atlasgs_bids.errors import ConfigurationError
from atlasgs_bids.imaging.nifti import save_image
from atlasgs_bids.runtime.files import load_tsv, save_json, save_text, save_tsv
from tests.bids_datasets import Dataset, head


def validator_errors(folder):
    """(code, location) of every error that the BIDS validator finds."""
    command = [sys.executable, "-c", "import bids_validator_deno as v; v.cli()", str(folder)]
    finished = subprocess.run(
        [*command, "--format", "json", "--ignoreWarnings"], capture_output=True, check=False, timeout=120
    )
    issues = json.loads(finished.stdout)["issues"]["issues"]
    return [(issue["code"], issue.get("location")) for issue in issues if issue["severity"] == "error"]


def write_results(out_dir, bids_dir, participant, resolution="iso"):
    """Every output of the app for one participant, with the real images and sidecars of a tiny dataset."""
    for inputs in discover_participant(bids_dir, participant):
        shared = anchor_outputs(out_dir, participant, inputs.session)
        anchor = nib.load(inputs.anchors[0].path)
        anchor_uri = bids_uri(inputs.anchors[0].path, bids_dir)
        save_image(anchor, shared.anchor)
        save_json(
            image_sidecar({}, description="The anchor", sources=[anchor_uri], skull_stripped=False),
            shared.anchor_json,
        )
        for path in (shared.scaffold_npz, shared.scaffold_ply, shared.scaffold_json):
            save_text("{}", path)
        for target in inputs.targets:
            write_target(out_dir, bids_dir, target, anchor, anchor_uri, resolution)


def write_target(out_dir, bids_dir, target, anchor, anchor_uri, resolution):
    outputs = target_outputs(out_dir, target.entities, resolution)
    source = bids_uri(target.path, bids_dir)
    on_grid = {"spatial_reference": anchor_uri, "resolution": "3 mm isotropic"}
    sidecars = {
        outputs.sr: image_sidecar(
            target.sidecar,
            description="Restored",
            sources=[source, anchor_uri],
            skull_stripped=False,
            **on_grid,
        ),
        outputs.fov_mask: image_sidecar(
            target.sidecar, description="Field of view", sources=[source], mask_type="ROI", **on_grid
        ),
        outputs.trusted_mask: image_sidecar(
            target.sidecar,
            description="Trusted",
            sources=[source],
            mask_type="ROI",
            **on_grid,
            RiskPromised=0.1,
            NumberOfSlices=20,
        ),
    }
    for path in (outputs.simulated, outputs.residual):
        sidecars[path] = image_sidecar(
            target.sidecar, description="Slices", sources=[source], skull_stripped=False
        )
    native = nib.load(target.path)
    for path, sidecar in sidecars.items():
        save_image(native if path in (outputs.simulated, outputs.residual) else anchor, path)
        save_json(sidecar, json_path(path))
    save_text("#Insight Transform File V1.0\n", outputs.xfm)
    save_json({"Sources": [source]}, outputs.xfm_json)
    save_text("png", outputs.figure)
    save_json({"n_gaussians": {"Description": "Number of Gaussians"}}, outputs.metrics_json)
    save_tsv([{"n_gaussians": 7}], outputs.metrics_tsv)
    assert outputs.finished


@pytest.mark.parametrize("session", [None, "01"])
def test_the_validator_finds_no_error(tmp_path, session):
    dataset = Dataset.create(tmp_path / "bids")
    slices = {"SliceTiming": [0, 1], "RepetitionTime": 8.0, "PatientName": "Doe"}
    dataset.add("01", "T1w", session=session)
    dataset.add("01", "FLAIR", session=session, sidecar=slices)
    dataset.add("01", "T2w", session=session, entities="acq-axial_run-02")
    out_dir = tmp_path / "out"
    write_dataset_files(out_dir, dataset.root, "0.1.0")
    write_results(out_dir, dataset.root, "01")
    save_text("crash", out_dir / "logs" / "crash-x.txt")
    save_text("participant_id\nsub-01\n", out_dir / "group_FLAIR.tsv")
    save_text("half", out_dir / "sub-01" / "anat" / ".tmp-0123abcd.1-1-0123abcd-0123abcd.nii.gz")
    assert validator_errors(out_dir) == []


def test_the_validator_sees_what_is_wrong(tmp_path):
    """Guards the test above: the same tree with a required field missing, or a wrong name, has errors."""
    dataset = Dataset.create(tmp_path / "bids").add_participant("01", "FLAIR")
    out_dir = tmp_path / "out"
    write_dataset_files(out_dir, dataset.root, "0.1.0")
    write_results(out_dir, dataset.root, "01")
    sr = target_outputs(out_dir, {"subject": "01", "suffix": "FLAIR", "datatype": "anat"}).sr
    save_json({"Description": "no SkullStripped"}, json_path(sr))
    save_image(nib.load(sr), sr.with_name("sub-01_desc-sr_space-T1w_FLAIR.nii.gz"))
    codes = {code for code, _ in validator_errors(out_dir)}
    assert "SIDECAR_KEY_REQUIRED" in codes
    assert len(codes) > 1


def test_every_output_of_a_target_has_its_own_path(tmp_path):
    base = {"subject": "01", "datatype": "anat"}
    several = [
        {**base, "suffix": "FLAIR"},
        {**base, "suffix": "T2w"},
        {**base, "suffix": "T2w", "acquisition": "axial"},
        {**base, "suffix": "T2w", "run": "02"},
        {**base, "suffix": "T2w", "session": "1"},
    ]
    names = ("sr", "simulated", "residual", "fov_mask", "trusted_mask", "flags", "xfm", "metrics_tsv")
    names += ("flags_tsv", "figure")
    names += tuple(f"{name}_json" for name in ("sr", "simulated", "residual", "fov_mask", "xfm", "metrics"))
    paths = [getattr(target_outputs(tmp_path, entities), name) for entities in several for name in names]
    assert len(set(paths)) == len(several) * len(names)


def test_names_are_those_of_the_documented_tree(tmp_path):
    entities = {
        "subject": "01",
        "session": "1",
        "acquisition": "axial",
        "suffix": "T2w",
        "datatype": "anat",
        "extension": ".nii.gz",
    }
    outputs = target_outputs(tmp_path, entities, 0.8)
    folder, start = tmp_path / "sub-01/ses-1/anat", "sub-01_ses-1_acq-axial"
    assert outputs.sr == folder / f"{start}_space-T1w_res-0p8mm_desc-sr_T2w.nii.gz"
    assert outputs.sr_json == folder / f"{start}_space-T1w_res-0p8mm_desc-sr_T2w.json"
    assert outputs.simulated == folder / f"{start}_desc-simulated_T2w.nii.gz"
    assert outputs.residual == folder / f"{start}_desc-residual_T2w.nii.gz"
    assert outputs.fov_mask == folder / f"{start}_space-T1w_res-0p8mm_desc-T2wfov_mask.nii.gz"
    assert outputs.trusted_mask == folder / f"{start}_space-T1w_res-0p8mm_desc-T2wtrusted_mask.nii.gz"
    assert outputs.flags == folder / f"{start}_space-T1w_res-0p8mm_desc-T2wflags_dseg.nii.gz"
    assert outputs.flags_tsv == folder / f"{start}_space-T1w_res-0p8mm_desc-T2wflags_dseg.tsv"
    assert outputs.xfm == folder / f"{start}_from-T2w_to-T1w_mode-image_xfm.txt"
    assert outputs.metrics_tsv == folder / f"{start}_mod-T2w_space-T1w_res-0p8mm_desc-sr_metrics.tsv"
    assert outputs.figure == tmp_path / f"sub-01/figures/{start}_space-T1w_res-0p8mm_desc-sr_T2w.png"
    shared = anchor_outputs(tmp_path, "01", None)
    assert shared.anchor == tmp_path / "sub-01/anat/sub-01_desc-anchor_T1w.nii.gz"
    assert shared.scaffold_npz == tmp_path / "sub-01/anat/sub-01_space-T1w_desc-atlasgs_scaffold.npz"


def test_an_entity_of_none_is_left_out(tmp_path):
    path = derivative_path(tmp_path, {"subject": "01"}, "T1w", ".json", space=None, desc="anchor")
    assert path.name == "sub-01_desc-anchor_T1w.json"


def test_resolution_labels_are_alphanumeric():
    assert [resolution_label(value) for value in ("iso", "anchor", "native", 1.0, 0.75)] == [
        "iso",
        "anchor",
        "native",
        "1mm",
        "0p75mm",
    ]


def test_a_sidecar_keeps_the_physics_only():
    source = {"EchoTime": 0.1, "SliceTiming": [0, 1], "SliceThickness": 5, "PatientName": "Doe"}
    sidecar = image_sidecar(source, description="d", sources=["bids:raw:x"], skull_stripped=True)
    assert sidecar == {"Description": "d", "Sources": ["bids:raw:x"], "SkullStripped": True, "EchoTime": 0.1}


def test_sources_point_to_files_that_exist(tmp_path):
    dataset = Dataset.create(tmp_path / "bids").add_participant("01", "FLAIR")
    path = dataset.path("01", "FLAIR")
    assert bids_uri(path, dataset.root) == "bids:raw:sub-01/anat/sub-01_FLAIR.nii.gz"
    with pytest.raises(ValueError, match="subpath"):
        bids_uri(tmp_path / "elsewhere.nii.gz", dataset.root)


def test_every_desc_label_is_described(tmp_path):
    bids_dir = Dataset.create(tmp_path / "bids").root
    write_dataset_files(tmp_path / "out", bids_dir, "0.1.0")
    rows = load_tsv(tmp_path / "out" / "descriptions.tsv")
    assert {row["desc_id"] for row in rows} == {f"desc-{label}" for label in DESCRIPTIONS}


def test_dataset_description_links_the_raw_dataset(tmp_path):
    bids_dir = Dataset.create(tmp_path / "bids", DatasetDOI="doi:10.1/x", License="CC0").root
    for out_dir, link in (
        (bids_dir / "derivatives" / "atlasgs", "../../"),
        (tmp_path / "out", bids_dir.as_uri()),
    ):
        write_dataset_files(out_dir, bids_dir, "0.1.0")
        description = json.loads((out_dir / "dataset_description.json").read_text())
        assert description["DatasetType"] == "derivative"
        assert description["GeneratedBy"] == [{"Name": "AtlasGS", "Version": "0.1.0"}]
        assert description["DatasetLinks"] == {"raw": link}
        assert description["SourceDatasets"] == [{"URL": link, "DOI": "doi:10.1/x"}]
        assert description["License"] == "CC0"


def test_root_files_are_renewed_and_the_users_readme_stays(tmp_path):
    bids_dir, out_dir = Dataset.create(tmp_path / "bids").root, tmp_path / "out"
    write_dataset_files(out_dir, bids_dir, "0.1.0")
    (out_dir / "README.md").write_text("my notes")
    write_dataset_files(out_dir, bids_dir, "0.2.0")
    assert (out_dir / "README.md").read_text() == "my notes"
    assert (
        json.loads((out_dir / "dataset_description.json").read_text())["GeneratedBy"][0]["Version"] == "0.2.0"
    )


@pytest.mark.parametrize("description", [{"GeneratedBy": [{"Name": "fMRIPrep"}]}, {"Name": "raw"}])
def test_another_dataset_is_not_overwritten(tmp_path, description):
    bids_dir = Dataset.create(tmp_path / "bids").root
    other = Dataset.create(tmp_path / "out", **description).root
    before = (other / "dataset_description.json").read_bytes()
    with pytest.raises(ConfigurationError, match="holds another dataset"):
        write_dataset_files(other, bids_dir, "0.1.0")
    assert (other / "dataset_description.json").read_bytes() == before


def test_images_keep_their_affine(tmp_path):
    data, affine = head("T1w")
    save_image(nib.Nifti1Image(data, affine), tmp_path / "a" / "x.nii.gz")
    np.testing.assert_allclose(nib.load(tmp_path / "a" / "x.nii.gz").affine, affine)
