"""Sidecars as people and converters write them, and what of them counts."""

import json

import pytest

from atlasgs_bids.bids.inputs.sidecars import SidecarFiles
from tests.bids_datasets import Dataset, sidecar_of, write_json


@pytest.fixture
def dataset(tmp_path):
    return Dataset.create(
        tmp_path / "bids",
    ).add_participant("01", "FLAIR")


def sidecar(dataset, content, is_ignored=lambda _: False):
    """What counts for sub-01's FLAIR when its own sidecar has this content."""
    image = dataset.path("01", "FLAIR")
    if isinstance(content, bytes):
        sidecar_of(image).write_bytes(content)
    else:
        write_json(sidecar_of(image), content)
    return SidecarFiles(dataset.root, is_ignored).of_image(image)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'\xef\xbb\xbf{"EchoTime": 0.1}', {"EchoTime": 0.1}),
        ('{"EchoTime": 0.1}'.encode("utf-16"), {"EchoTime": 0.1}),
        (b'{"Manufacturer": "M\xfcller"}', {"Manufacturer": "Müller"}),
        (b'{"EchoTime": 0.2, "EchoTime": 0.1}', {"EchoTime": 0.1}),
        (b'{"EchoTime": NaN, "FlipAngle": -Infinity, "A": null}', {}),
        (b'{"SliceThickness": "5.0", "EchoTime": " 9e-2"}', {"SliceThickness": 5.0, "EchoTime": 0.09}),
        (b'{"SliceThickness": "5 mm", "PatientID": "5"}', {"SliceThickness": "5 mm", "PatientID": "5"}),
        (b'{"SliceThickness": [5], "EchoTime": {"a": 1}}', {"SliceThickness": [5], "EchoTime": {"a": 1}}),
        (b'{"SliceTiming": ["0.0", 1, "0.5"]}', {"SliceTiming": [0.0, 1, 0.5]}),
        (b'{"SliceTiming": [0, null], "AcquisitionVoxelSize": [1, NaN]}', {}),
        (b'{"SliceTiming": 0.5, "AcquisitionVoxelSize": [[1], 1]}', {}),
        (b'{"SliceThickness": 1' + b"0" * 5000 + b"}", {}),
        (b'{"Manufacturer": "\\ud800"}', {"Manufacturer": "?"}),
        (b'{"subject": "02", "run": [1]}', {"subject": "02", "run": [1]}),
    ],
)  # fmt: skip
def test_what_a_sidecar_says(dataset, content, expected):
    result = sidecar(dataset, content)
    assert (dict(result.fields), result.problem) == (expected, None)
    json.dumps(result.fields, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"null", b"\xff\xfe\x00", b"[" * 100000])
def test_what_is_no_sidecar_is_named(dataset, content):
    result = sidecar(dataset, content)
    assert "sub-01_FLAIR.json" in result.problem
    assert "correct or remove it" in result.problem


def test_a_null_leaves_what_is_inherited(dataset):
    write_json(dataset.root / "FLAIR.json", {"EchoTime": 0.1, "FlipAngle": 90})
    assert sidecar(dataset, {"EchoTime": None, "FlipAngle": 8}).fields == {"EchoTime": 0.1, "FlipAngle": 8}


def test_the_most_specific_of_a_folder_counts(dataset):
    dataset.add("01", "FLAIR", entities="acq-axial_run-1")
    for name, value in (("acq-axial_FLAIR", 2), ("FLAIR", 1), ("acq-other_FLAIR", 3), ("._FLAIR", 4)):
        write_json(dataset.root / f"{name}.json", {"EchoTime": value})
    image = dataset.path("01", "FLAIR", entities="acq-axial_run-1")
    files = SidecarFiles(dataset.root, lambda _: False)
    assert files.of_image(image).fields["EchoTime"] == 2
    assert files.of_image(dataset.path("01", "FLAIR")).fields["EchoTime"] == 1


def test_an_ignored_sidecar_says_nothing(dataset):
    write_json(dataset.root / "FLAIR.json", {"EchoTime": 0.1})
    result = sidecar(dataset, {}, lambda path: path.parent == dataset.root)
    assert (dict(result.fields), result.problem) == ({}, None)
