"""The text files beside 4-D images: where they are found, and what is wrong with them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlasgs_bids.bids.inputs.companions import ASL_VOLUME_TYPES, inherited, read_asl_context, read_gradients
from atlasgs_bids.bids.inputs.discover import discover_participant
from atlasgs_bids.errors import InputError
from tests.bids_datasets import Dataset, head


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["sub-01/dwi/sub-01_dir-AP_dwi.bval", "dwi.bval"], "sub-01/dwi/sub-01_dir-AP_dwi.bval"),
        (["dwi.bval"], "dwi.bval"),
        (["dir-AP_dwi.bval", "dwi.bval", "dir-PA_dwi.bval"], "dir-AP_dwi.bval"),
        (["sub-01/sub-01_dwi.bval", "dwi.bval"], "sub-01/sub-01_dwi.bval"),
        (["sub-01/dwi/sub-01_dir-PA_dwi.bval", "sub-01/dwi/sub-01_dir-AP_dwi.bvec"], None),
        (["sub-01/dwi/sub-01_dir-AP_run-1_dwi.bval"], None),
    ],
)
def test_inheritance(tmp_path, files, expected):
    image = tmp_path / "sub-01" / "dwi" / "sub-01_dir-AP_dwi.nii.gz"
    image.parent.mkdir(parents=True)
    for name in files:
        (tmp_path / name).touch()
    found = inherited(image, "dwi", ".bval", tmp_path)
    assert (found and found.relative_to(tmp_path).as_posix()) == expected


def write(tmp_path, b_values, directions):
    (tmp_path / "a.bval").write_text(b_values)
    (tmp_path / "a.bvec").write_text(directions)
    return read_gradients(tmp_path / "a.bval", tmp_path / "a.bvec")


@pytest.mark.parametrize("directions", ["0 1\n0 0\n0 0\n", "0 0 0\n1 0 0\n"])
def test_directions_in_rows_or_columns(tmp_path, directions):
    gradients = write(tmp_path, "0 1000\n", directions)
    np.testing.assert_array_equal(gradients.b_values, [0, 1000])
    np.testing.assert_array_equal(gradients.directions, [[0, 0, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    ("b_values", "directions", "message"),
    [
        ("0 1000", "0 1 0\n0 0 0\n0 0 1", "3 x 3 numbers for 2 b values, expected 3 x 2"),
        ("0 x", "0 1\n0 0\n0 0", "no table of numbers"),
        ("0 nan", "0 1\n0 0\n0 0", "a.bval: a number"),
        ("0 1000", "0 nan\n0 0\n0 1", "a.bvec: a number of a weighted volume is not finite"),
        ("0 1000", "inf 1\n0 0\n0 0", "a.bvec: a number"),
        ("0 1", "0 1\n0 0 0\n0 0", "no table of numbers"),
    ],
)
def test_gradients_that_are_none(tmp_path, b_values, directions, message):
    with pytest.raises(InputError, match=message):
        write(tmp_path, b_values, directions)


@pytest.mark.parametrize("of_b0", ["nan nan nan", "n/a n/a n/a", "NaN 0 0"])
def test_a_volume_without_weighting_has_no_direction(tmp_path, of_b0):
    gradients = write(tmp_path, "5 1000\n", f"{of_b0}\n1 0 0\n")
    np.testing.assert_array_equal(gradients.directions, [[0, 0, 0], [1, 0, 0]])


def test_commas_a_byte_order_mark_and_blank_lines(tmp_path):
    gradients = write(tmp_path, "\ufeff0,1000\r\n\r\n", "0, 1\r\n0,0\r\n0 ,0\r\n")
    np.testing.assert_array_equal(gradients.b_values, [0, 1000])
    np.testing.assert_array_equal(gradients.directions, [[0, 0, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    "content",
    [
        "volume_type\nn/a\ncontrol\nlabel\n\n",
        "\ufeffvolume_type\r\nn/a\r\ncontrol\r\nlabel\r\n",
        "onset\tvolume_type \n0\tn/a\n4\tcontrol \n8\tlabel",
    ],
)
def test_contexts_as_editors_leave_them(tmp_path, content):
    path = tmp_path / "a_aslcontext.tsv"
    path.write_bytes(content.encode())
    assert read_asl_context(path) == ("n/a", "control", "label")


def read_or_refused(read, *paths):
    """What is read, or the message of the refusal."""
    try:
        return read(*paths), None
    except InputError as error:
        return None, str(error)


anything = st.binary(max_size=40) | st.text("0123456789.,\tnae/+- \n", max_size=30).map(str.encode)


@given(anything, anything)
def test_whatever_the_files_hold_they_are_read_or_named(tmp_path_factory, first, second):
    folder = tmp_path_factory.getbasetemp()
    for name, content in (("x.bval", first), ("x.bvec", second), ("x_aslcontext.tsv", first)):
        (folder / name).write_bytes(content)
    gradients, problem = read_or_refused(read_gradients, folder / "x.bval", folder / "x.bvec")
    if problem is None:
        assert np.isfinite(gradients.directions).all()
        assert np.isfinite(gradients.b_values).all()
    else:
        assert problem.startswith(("x.bval: ", "x.bvec: "))
    context, problem = read_or_refused(read_asl_context, folder / "x_aslcontext.tsv")
    if problem is None:
        assert set(context) <= set(ASL_VOLUME_TYPES)
    else:
        assert problem.startswith("x_aslcontext.tsv: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [("type\ncontrol\n", "column volume_type"), ("volume_type\ntag\n", "volume types tag"), ("", "no table")],
)
def test_contexts_that_are_none(tmp_path, content, message):
    (tmp_path / "a_aslcontext.tsv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_asl_context(tmp_path / "a_aslcontext.tsv")


def test_discovery_finds_series_and_says_what_is_missing(tmp_path):
    dataset = Dataset.create(tmp_path / "bids").add_participant("01")
    data, affine = head("T2w", (3.0, 3.0, 9.0))
    series = np.stack([data, data], axis=3)
    dwi = dataset.add_diffusion("01", series, affine, np.array([0, 1000.0]), np.eye(3)[:2])
    asl = dataset.add_labelling("01", series, affine, ["control", "label"])
    (inputs,) = discover_participant(dataset.root, "01")
    found = {image.entities["suffix"]: image for image in inputs.targets}
    assert set(found) == {"FLAIR", "dwi", "asl"}
    np.testing.assert_array_equal(found["dwi"].gradients.b_values, [0, 1000])
    assert found["asl"].asl_context == ("control", "label")
    dwi.with_name("sub-01_dwi.bvec").unlink()
    asl.with_name("sub-01_aslcontext.tsv").unlink()
    (inputs,) = discover_participant(dataset.root, "01")
    problems = {image.entities["suffix"]: image.problem for image in inputs.targets}
    assert "has no bvec file" in problems["dwi"]
    assert "has no aslcontext.tsv" in problems["asl"]
    assert problems["FLAIR"] is None
