"""Whatever a header or a sidecar says: it is the trouble of its own image, named, and of nobody else."""

import json
import math
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from atlasgs_bids.bids.inputs.discover import discover_participant
from atlasgs_bids.bids.outputs.names import Naming
from atlasgs_bids.bids.plan.session import plan_subject
from atlasgs_bids.bids.plan.settings import PlanSettings
from tests.bids_datasets import Dataset, affine_of

SHAPE = (8, 8, 4)
KNOWN_FIELDS = (
    "SliceThickness", "SpacingBetweenSlices", "EchoTime", "RepetitionTime", "FlipAngle", "IntendedFor",
    "AcquisitionVoxelSize", "PhaseEncodingDirection", "AcquisitionMatrixPE", "ReconMatrixPE",
    "BaseResolution", "SliceTiming", "ImageType", "subject", "run", "suffix",
)  # fmt: skip

floats32 = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 3.0, math.nan, math.inf, 1e-30, 3e38]), st.floats(width=32)
)
shorts = st.one_of(st.sampled_from([0, 1, 2, 4]), st.integers(-(2**15), 2**15 - 1))
dims = st.one_of(
    st.permutations([3, 8, 8, 4, 1, 1, 1, 1]),
    st.sampled_from([[5, 8, 8, 4, 1, 2, 1, 1], [1, 8, 1, 1, 1, 1, 1, 1], [3, 8, 0, 4, 1, 1, 1, 1]]),
    st.lists(shorts, min_size=8, max_size=8),
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "dim": dims,
        "pixdim": st.lists(floats32, min_size=8, max_size=8),
        "sform_code": shorts,
        "qform_code": shorts,
        "quatern_b": floats32,
        "quatern_c": floats32,
        "qoffset_x": floats32,
        "srow_x": st.lists(floats32, min_size=4, max_size=4),
        "srow_y": st.lists(floats32, min_size=4, max_size=4),
        "srow_z": st.lists(floats32, min_size=4, max_size=4),
        "datatype": st.one_of(st.sampled_from([2, 4, 16, 32, 64, 128, 256, 512, 1536, 1792, 2304]), shorts),
        "bitpix": shorts,
        "scl_slope": floats32,
        "scl_inter": floats32,
        "vox_offset": st.one_of(st.sampled_from([0, 352, 544]), st.integers(0, 2**31)),
        "xyzt_units": st.integers(0, 255),
        "magic": st.sampled_from([b"n+1", b"ni1", b"", b"abc"]),
    },
)
json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.sampled_from(["5.0", "nan", "1e400", " 9 ", "5 mm", "\ud800", 10**400, 1e308, -(10**299)]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
sidecars = st.one_of(
    st.dictionaries(st.sampled_from(KNOWN_FIELDS) | st.text(max_size=4), json_values, max_size=6).map(
        lambda content: json.dumps(content).encode()
    ),
    st.one_of(json_values.map(lambda content: json.dumps(content).encode()), st.binary(max_size=20)),
    st.just(b"[" * 20000),
)


def written(path, fields, kind=nib.Nifti1Header):
    """A file of zeros whose header is a sound one but for ``fields``, which no library has checked."""
    header = kind()
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.int16)
    affine = affine_of((3.0, 3.0, 9.0), SHAPE)
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    content = header.structarr
    content["vox_offset"] = 352 if kind is nib.Nifti1Header else 544
    content["magic"] = b"n+1" if kind is nib.Nifti1Header else header.single_magic
    for name, value in fields.items():
        if name != "magic" or kind is nib.Nifti1Header:
            content[name] = value
    path.write_bytes(content.tobytes() + bytes(4) + bytes(2 * int(np.prod(SHAPE))))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    dataset = Dataset.create(tmp_path_factory.mktemp("any") / "bids")
    dataset.add_participant("01", "FLAIR")
    return dataset


def check_that_the_others_are_planned(dataset):
    """The trouble of the two files in question, by name; the rest has to be as it was without them."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        (inputs,) = discover_participant(dataset.root, "01")
        assert inputs.problem is None
        plan = plan_subject(inputs, PlanSettings(), Naming(Path("out")))
    assert [str(warning.message) for warning in told] == []
    for image in (*inputs.anchors, *inputs.targets):
        assert image.problem is None or image.path.name.split(".")[0] in image.problem
    assert "FLAIR" in {target.label for target in plan.targets}
    failed = dict(plan.failures)
    planned = {target.label for target in plan.targets}
    skipped = {path.name for path, _ in plan.skipped}
    assert "T2w" in planned or "sub-01_T2w" in failed.get("T2w", "") or "sub-01_T2w.nii" in skipped
    return inputs, plan


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example({}, {"sform_code": 0, "quatern_b": 1.000005}, nib.Nifti1Header, b"{}")
@example({}, {}, nib.Nifti1Header, b'{"IntendedFor": null}')
@example({"datatype": 128, "bitpix": 24}, {"datatype": 128, "bitpix": 24}, nib.Nifti1Header, b"{}")
@example({}, {}, nib.Nifti1Header, b'{"subject": "02", "SliceThickness": [9]}')
@example({}, {"srow_x": [1e200] * 4, "srow_y": [1e200, 0, 1e200, 0]}, nib.Nifti2Header, b"{}")
@given(
    headers,
    headers,
    st.sampled_from([nib.Nifti1Header, nib.Nifti2Header]),
    sidecars,
)
def test_any_header_and_any_sidecar_leave_the_others_planned(dataset, of_t1w, of_t2w, kind, sidecar):
    anat = dataset.root / "sub-01" / "anat"
    written(anat / "sub-01_acq-any_T1w.nii", of_t1w, kind)
    written(anat / "sub-01_T2w.nii", of_t2w, kind)
    (anat / "sub-01_T2w.json").write_bytes(sidecar)
    (anat / "sub-01_acq-any_T1w.json").write_bytes(sidecar)
    check_that_the_others_are_planned(dataset)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), max_size=20), st.integers(0, 900))
def test_any_bytes_leave_the_others_planned(dataset, bytes_changed, length):
    anat = dataset.root / "sub-01" / "anat"
    for left in anat.glob("*_acq-any_*"):
        left.unlink()
    path = anat / "sub-01_T2w.nii"
    written(path, {})
    content = bytearray(path.read_bytes())
    for offset, value in bytes_changed:
        content[offset] = value
    path.write_bytes(content[: 352 + length])
    (anat / "sub-01_T2w.json").write_text("{}")
    check_that_the_others_are_planned(dataset)
