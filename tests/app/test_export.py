"""--export raw: what it holds, what raw tools find in it, and that it follows the results."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pytest
from bids import BIDSLayout

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.export import is_exported, write_export
from atlasgs_bids.app.participants import process_participant, unfinished
from atlasgs_bids.bids.inputs.discover import discover_participant
from atlasgs_bids.bids.outputs.locks import dataset_lock
from atlasgs_bids.bids.outputs.raw import raw_dir, write_raw_dataset_files
from atlasgs_bids.bids.plan.session import plan_subject
from atlasgs_bids.runtime.progress import Progress
from tests.acquisitions import ANATOMY_DIRECTIONS, B_VALUES
from tests.bids_datasets import THICK_MM, Dataset, head, sidecar_of
from tests.runs import atlasgs, outputs
from tests.validation import validator_errors

EXPORTED = {
    "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-01/anat/sub-01_rec-atlasgs_FLAIR.nii.gz",
    "sub-01/anat/sub-01_rec-normatlasgs_T2w.nii.gz",
    "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz",
    "sub-02/ses-b/anat/sub-02_ses-b_rec-atlasgs_FLAIR.nii.gz",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Folders of a dataset and its results with their export."""
    root = tmp_path_factory.mktemp("export")
    dataset = Dataset.create(root / "bids", License="CC0")
    dataset.add_participant("01", "FLAIR")
    dataset.add("01", "T2w", entities="rec-norm", sidecar={"EchoTime": 0.09, "SliceTiming": [0.0, 1.0]})
    data, affine = head("T2w", THICK_MM)
    volumes = np.stack([data, 0.5 * data, 0.4 * data], axis=3)
    dataset.add_diffusion("01", volumes, affine, B_VALUES[:3], ANATOMY_DIRECTIONS[:3])
    dataset.add("02", "T1w", session="a")
    dataset.add("02", "FLAIR", session="b")
    (dataset.root / "participants.tsv").write_text("participant_id\tage\nsub-01\t40\nsub-02\tn/a\n")
    (dataset.root / "participants.json").write_text('{"age": {"Units": "year"}}')
    code, last_line, log = atlasgs(dataset.root, root / "out", "--no-uncertainty", "--export", "raw")
    assert (code, last_line) == (0, "2 of 2 participants done"), log
    assert "in part refined with the T1w once more" in log
    assert "too large for sMRIPrep" in log
    return dataset.root, root / "out"


@pytest.fixture
def copied(results, tmp_path):
    """The session of participant 01, and its run, in a copy of the results."""
    shutil.copytree(results[1], tmp_path / "out")
    return session_of(results[0], tmp_path / "out")


def session_of(bids_dir, out_dir):
    config = RunConfig(bids_dir, out_dir, "participant", export="raw").restoring(device="cpu")
    (inputs,) = discover_participant(bids_dir, "01")
    return plan_subject(inputs, config.plan, config.naming), config


def images_in(root):
    return {path.relative_to(root).as_posix() for path in root.rglob("*.nii*")}


def test_it_holds_the_t1w_and_the_restored_images_alone(results):
    """No thick slices, no series, nothing of the derivatives."""
    assert images_in(raw_dir(results[1])) == EXPORTED


def test_neither_dataset_has_an_error(results):
    out_dir = results[1]
    assert validator_errors(raw_dir(out_dir)) == []
    assert validator_errors(out_dir) == []
    wrong = raw_dir(out_dir) / "sub-01" / "anat" / "sub-01_space-T1w_FLAIR.nii.gz"
    shutil.copy(raw_dir(out_dir) / "sub-01" / "anat" / "sub-01_T1w.nii.gz", wrong)
    try:
        assert validator_errors(raw_dir(out_dir)), "the validator looks at these files"
        assert validator_errors(out_dir) == [], "and not at them as a part of the results"
    finally:
        wrong.unlink()


def test_the_queries_of_the_page_work(results):
    """What docs/export.md says of pybids, and that the results are found without their export."""
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text("utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    names = {}
    exec(code.replace("OUT_DIR", str(results[1])), names)
    assert [Path(path).name for path in names["flair"]] == ["sub-01_rec-atlasgs_FLAIR.nii.gz"]
    assert [Path(path).name for path in names["t2w"]] == ["sub-01_rec-normatlasgs_T2w.nii.gz"]
    derived = BIDSLayout(results[1], validate=False, is_derivative=True)
    found = derived.get(suffix="FLAIR", extension=".nii.gz", return_type="file")
    assert found
    assert not any("derivatives/raw" in path for path in found)


def test_an_image_is_the_result_without_negative_values(results):
    result = nib.load(outputs(results[1], "01", "FLAIR").sr)
    exported = nib.load(raw_dir(results[1]) / "sub-01" / "anat" / "sub-01_rec-atlasgs_FLAIR.nii.gz")
    np.testing.assert_array_equal(exported.get_fdata(), np.maximum(result.get_fdata(), 0))
    np.testing.assert_array_equal(exported.affine, result.affine)
    assert exported.header["sform_code"] == result.header["sform_code"]


def test_sidecars_say_what_holds_and_where_it_came_from(results):
    root = raw_dir(results[1])
    links = json.loads((root / "dataset_description.json").read_text())["DatasetLinks"]
    folders = {"atlasgs": (root / links["atlasgs"]).resolve(), "raw": Path(unquote(links["raw"][7:]))}
    for name in sorted(EXPORTED):
        sidecar = json.loads(sidecar_of(root / name).read_text())
        assert sidecar["MagneticFieldStrength"] == 3
        for uri in sidecar["Sources"]:
            _, dataset, path = uri.split(":")
            assert (folders[dataset] / path).exists(), uri
        if "_rec-" in name:
            assert sidecar["ProcessedBy"][0]["Name"] == "AtlasGS"
            assert sidecar["SliceThicknessUsed"] == 9
            assert not {"SliceThickness", "SliceTiming", "SpatialReference", "Resolution"} & set(sidecar)
    t2w = json.loads((root / "sub-01/anat/sub-01_rec-normatlasgs_T2w.json").read_text())
    assert t2w["EchoTime"] == 0.09


def test_the_t1w_is_a_copy_that_leads_back_to_nothing(results):
    source = results[0] / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    copy = raw_dir(results[1]) / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    assert copy.read_bytes() == source.read_bytes()
    assert not copy.is_symlink()
    assert copy.stat().st_ino != source.stat().st_ino


def test_dataset_files(results):
    root = raw_dir(results[1])
    assert (root / "participants.tsv").read_text() == "participant_id\tage\nsub-01\t40\nsub-02\tn/a\n"
    assert json.loads((root / "participants.json").read_text()) == {"age": {"Units": "year"}}
    description = json.loads((root / "dataset_description.json").read_text())
    assert (description["DatasetType"], description["License"]) == ("raw", "CC0")
    assert description["GeneratedBy"][0]["Name"] == "AtlasGS"
    chosen = json.loads((root / "bids_filter.json").read_text())
    assert chosen["flair"] == chosen["t2w"] == {"reconstruction": ["atlasgs", "normatlasgs"]}
    assert not list(root.rglob(".tmp-*"))


def test_what_is_current_stays_and_what_is_missing_comes_back(copied):
    plan, config = copied
    folder = raw_dir(config.out_dir) / "sub-01" / "anat"
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert is_exported(plan, config)
    assert not unfinished(plan, config)
    lost = folder / "sub-01_rec-atlasgs_FLAIR.nii.gz"
    content = nib.load(lost).get_fdata()
    lost.unlink()
    assert unfinished(plan, config), "a run has something to do, though every target is finished"
    write_export(plan, config)
    np.testing.assert_array_equal(nib.load(lost).get_fdata(), content)
    changed = {path.name for path in folder.iterdir() if path.stat().st_mtime_ns != written.get(path)}
    assert changed == {"sub-01_rec-atlasgs_FLAIR.nii.gz", "sub-01_rec-atlasgs_FLAIR.json"}


def test_it_follows_the_results(copied):
    """A result that was made again is exported again; one that is gone leaves no export behind."""
    plan, config = copied
    flair, t2w = (outputs(config.out_dir, "01", suffix) for suffix in ("FLAIR", "T2w"))
    image = nib.load(flair.sr)
    doubled = 2 * image.get_fdata(dtype=np.float32)
    nib.save(nib.Nifti1Image(doubled, image.affine, image.header), flair.sr)
    assert not is_exported(plan, config)
    (metrics,) = (config.out_dir / "sub-01" / "anat").glob("*mod-T2w*_metrics.tsv")
    assert metrics != t2w.metrics_tsv, "it has rec-norm in its name"
    metrics.unlink()
    write_export(plan, config)
    root = raw_dir(config.out_dir)
    assert {name for name in images_in(root) if "sub-01" in name} == {
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_rec-atlasgs_FLAIR.nii.gz",
    }
    exported = nib.load(root / "sub-01" / "anat" / "sub-01_rec-atlasgs_FLAIR.nii.gz")
    np.testing.assert_array_equal(exported.get_fdata(), np.maximum(doubled, 0))


def test_a_killed_export_is_done_again(copied):
    """Between an image and its sidecar: the sidecar comes first, and no old image stands beside it."""
    plan, config = copied
    path = raw_dir(config.out_dir) / "sub-01" / "anat" / "sub-01_rec-atlasgs_FLAIR.nii.gz"
    path.unlink()
    (path.parent / "sub-01_T1w.json").write_text("{")
    assert not is_exported(plan, config)
    write_export(plan, config)
    assert is_exported(plan, config)
    assert path.exists()


def test_finished_targets_are_exported_without_a_fit(copied):
    plan, config = copied
    shutil.rmtree(raw_dir(config.out_dir))
    written = outputs(config.out_dir, "01", "FLAIR").sr.stat().st_mtime_ns
    assert process(plan, config) == []
    assert {name for name in EXPORTED if "sub-01" in name} == images_in(raw_dir(config.out_dir))
    assert outputs(config.out_dir, "01", "FLAIR").sr.stat().st_mtime_ns == written


def test_without_the_option_there_is_none(copied):
    plan, config = copied
    shutil.rmtree(raw_dir(config.out_dir))
    config = replace(config, export="none")
    assert not unfinished(plan, config)
    assert process(plan, config) == []
    assert not raw_dir(config.out_dir).exists()


def test_an_export_that_cannot_be_written_is_a_failure(copied):
    plan, config = copied
    shutil.rmtree(raw_dir(config.out_dir))
    raw_dir(config.out_dir).write_text("a file where a folder should be")
    (failure,) = process(plan, config)
    assert failure.label == "sub-01 export"
    assert list((config.out_dir / "logs").glob("crash-*sub-01_export*"))


def test_a_damaged_sidecar_fails_where_it_is_exported(copied):
    """Not where the whole run asks what there is to do."""
    plan, config = copied
    outputs(config.out_dir, "01", "FLAIR").sr_json.write_text('{"Sources": 3}')
    assert unfinished(plan, config)
    (failure,) = process(plan, config)
    assert failure.label == "sub-01 export"


def process(plan, config):
    """Failures of a run over one session."""
    failures = []
    process_participant([plan], config, Progress.quiet(), failures.append)
    return failures


def test_processes_wait_for_the_files_that_they_share(tmp_path):
    """Else the one that looked first and wrote last would drop the other's participant."""
    Dataset.create(tmp_path / "bids")
    arguments = (tmp_path / "out", tmp_path / "bids", "1", {}, "01", [])
    writer = threading.Thread(target=write_raw_dataset_files, args=arguments)
    root = raw_dir(tmp_path / "out")
    with dataset_lock(root):
        writer.start()
        writer.join(0.5)
        assert writer.is_alive()
        assert not (root / "participants.tsv").exists()
        (root / "sub-02").mkdir()
    writer.join(10)
    assert (root / "participants.tsv").read_text() == "participant_id\nsub-01\nsub-02\n"
