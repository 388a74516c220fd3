"""Values that are no data, headers that say nothing or use another unit: the real command, to the files."""

import json

import nibabel as nib
import numpy as np
import pytest

from atlasgs_bids.bids.outputs.names import target_outputs
from tests.bids_datasets import THICK_MM, Dataset, head
from tests.runs import atlasgs, outputs

LOST_SLICE = 4
SPIKES = ((12, 12, 3), (10, 14, 5))


def rewritten(path, change):
    """Change the header of a file in place; its data stay."""
    image = nib.load(path)
    data = np.asarray(image.dataobj)
    header = image.header.copy()
    change(header)
    made = nib.Nifti1Image(data, None, header)
    made.header["sform_code"], made.header["qform_code"] = header["sform_code"], header["qform_code"]
    made.to_filename(path)


def without_forms(header):
    header["sform_code"] = header["qform_code"] = 0


def in_microns(header):
    for name in ("srow_x", "srow_y", "srow_z"):
        header[name] = header[name] * 1000
    header["pixdim"][1:4] *= 1000
    header["qoffset_x"], header["qoffset_y"], header["qoffset_z"] = (
        header[name] * 1000 for name in ("qoffset_x", "qoffset_y", "qoffset_z")
    )
    header.set_xyzt_units("micron", "msec")


def in_metres(header):
    header.set_xyzt_units("meter", "sec")


def codes(path):
    header = nib.load(path).header
    return int(header["sform_code"]), int(header["qform_code"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """01: no forms at all; 02: its FLAIR has none; 03: spikes and a lost slice; 04: microns; 05: far apart;
    06: metres where mm are meant."""
    root = tmp_path_factory.mktemp("doubtful")
    dataset = Dataset.create(root / "bids")
    for participant in ("01", "02", "04", "06"):
        dataset.add_participant(participant, "FLAIR")
    for suffix in ("T1w", "FLAIR"):
        rewritten(dataset.path("01", suffix), without_forms)
    rewritten(dataset.path("02", "FLAIR"), without_forms)
    data, affine = head("FLAIR", THICK_MM)
    dataset.add("03", "T1w")
    spoiled = data.copy()
    for place in SPIKES:
        spoiled[place] = 32000
    spoiled[:, :, LOST_SLICE] = 0
    dataset.add("03", "FLAIR", data=spoiled)
    dataset.add("03", "FLAIR", entities="acq-clean", data=data)
    rewritten(dataset.path("04", "FLAIR"), in_microns)
    series = np.stack([data, 0.97 * data, data, 0.97 * data], axis=-1)
    asl = dataset.add_labelling("04", series, affine, ("control", "label", "control", "label"))
    image = nib.load(asl)
    image.header.set_zooms((*image.header.get_zooms()[:3], 4500.0))
    image.header.set_xyzt_units("mm", "msec")
    nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header).to_filename(asl)
    moved, t1w_affine = head("T1w")
    t1w_affine = t1w_affine.copy()
    t1w_affine[:3, 3] += [150, 100, 100]
    dataset.add("05", "T1w", data=moved, world_from_voxel=t1w_affine)
    dataset.add("05", "FLAIR")
    rewritten(dataset.path("06", "FLAIR"), in_metres)
    # One profile for both: what is compared is what spikes and a lost slice do.
    options = ("--combine-stacks", "none", "--slice-profile", "box")
    code, last_line, log = atlasgs(dataset.root, root / "out", *options)
    return dataset.root, root / "out", code, last_line, log


def sidecar(out_dir, participant, suffix="FLAIR"):
    return json.loads(outputs(out_dir, participant, suffix).sr_json.read_text(encoding="utf-8"))


def test_only_what_cannot_be_right_fails(run):
    _, _, code, last_line, log = run
    assert code == 1, log
    assert last_line.startswith("4 of 6 participants done; failed: "), log
    assert "sub-05 FLAIR: the slices cover 0.0% of the anchor's head" in log
    assert (
        "sub-06 FLAIR: sub-06_FLAIR.nii.gz has voxels of 3e+03 x 3e+03 x 9e+03 mm (the header's unit" in log
    )


@pytest.mark.parametrize("participant", ["01", "02"])
def test_an_unknown_orientation_is_said_in_log_and_sidecar(run, participant):
    _, out_dir, _, _, log = run
    assert f"sub-{participant}: FLAIR: the orientation is unknown" in log
    (warning,) = [text for text in sidecar(out_dir, participant)["Warnings"] if "orientation" in text]
    assert f"sub-{participant}_FLAIR.nii.gz" in warning
    assert ("the T1w" in warning) == (participant == "01")


def test_the_codes_are_no_better_than_those_of_the_inputs(run):
    bids_dir, out_dir, _, _, _ = run
    unknown, mixed, known = (outputs(out_dir, participant, "FLAIR") for participant in ("01", "02", "03"))
    for paths, on_grid, native in ((unknown, 0, 0), (mixed, 2, 0), (known, 1, 1)):
        assert {codes(path) for path in (paths.sr, paths.srstd, paths.fov_mask)} == {(on_grid, on_grid)}
        assert {codes(path) for path in (paths.simulated, paths.residual)} == {(native, native)}
    anchor = nib.load(bids_dir / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    np.testing.assert_allclose(nib.load(unknown.sr).affine, anchor.affine, atol=1e-4)
    anchor = nib.load(bids_dir / "sub-02" / "anat" / "sub-02_T1w.nii.gz")
    np.testing.assert_allclose(nib.load(mixed.sr).affine, anchor.affine, atol=1e-4)


def test_spikes_and_a_lost_slice_hardly_change_the_rest(run):
    _, out_dir, _, _, log = run
    spoiled = nib.load(outputs(out_dir, "03", "FLAIR").sr).get_fdata()
    clean_entities = {"subject": "03", "acquisition": "clean", "suffix": "FLAIR", "datatype": "anat"}
    clean = nib.load(target_outputs(out_dir, clean_entities).sr).get_fdata()
    far = np.ones(clean.shape, bool)
    far[:, :, 3 * (LOST_SLICE - 1) : 3 * (LOST_SLICE + 2)] = False
    for i, j, k in SPIKES:
        far[i - 4 : i + 5, j - 4 : j + 5, 3 * k - 6 : 3 * k + 9] = False
    inside = far & (clean > 50)
    assert np.median(np.abs(spoiled - clean)[inside]) < 15  # 34 where they count as data
    assert "sub-03_FLAIR.nii.gz: 2 voxels with values of 3.2e+04 to 3.2e+04" in log
    assert "1 of 8 slices along axis 2 is constant amid the image" in log
    assert any("3.2e+04" in text for text in sidecar(out_dir, "03")["Warnings"])


def test_a_lost_slice_is_inferred_and_outside_the_field_of_view(run):
    """Black before: an eighth of the head set to 0."""
    _, out_dir, _, _, _ = run
    paths = outputs(out_dir, "03", "FLAIR")
    lost = slice(3 * LOST_SLICE, 3 * LOST_SLICE + 3)
    result, fov = nib.load(paths.sr).get_fdata(), nib.load(paths.fov_mask).get_fdata()
    assert not fov[..., lost].any()
    assert fov[8, 12, : 3 * LOST_SLICE].all()
    truth, _ = head("FLAIR", (3.0, 3.0, 3.0))
    tissue = truth[..., lost] > 300
    assert np.median(result[..., lost][tissue]) == pytest.approx(
        np.median(truth[..., lost][tissue]), rel=0.25
    )


def test_units_of_length_and_time_are_converted(run):
    _, out_dir, _, _, _ = run
    paths = outputs(out_dir, "04", "FLAIR")
    np.testing.assert_allclose(nib.load(paths.simulated).header.get_zooms(), THICK_MM, rtol=1e-5)
    asl = target_outputs(out_dir, {"subject": "04", "suffix": "asl", "datatype": "perf"})
    assert nib.load(asl.sr).header.get_zooms()[3] == pytest.approx(4.5)
    assert nib.load(asl.sr).header.get_xyzt_units() == ("mm", "sec")
