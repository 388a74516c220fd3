"""What is restored together, what apart, and what the volumes of a series are; from headers alone."""

from dataclasses import replace

import numpy as np
import pytest

from atlasgs_bids.bids.images import Gradients
from tests.plans import image, plan, t1w, target

SAGITTAL, CORONAL = (9.0, 3.0, 3.0), (3.0, 9.0, 3.0)


def labels(result):
    return [target.label for target in result.targets]


def test_orthogonal_stacks_of_one_contrast_become_one_target():
    targets = [
        target("acq-axial"),
        target("acq-sag", voxel_mm=SAGITTAL),
        target("acq-cor_run-2", voxel_mm=CORONAL),
    ]
    result = plan([t1w()], targets)
    (joint,) = result.targets
    assert joint.label == "FLAIR"
    assert joint.entities == {"subject": "01", "suffix": "FLAIR", "datatype": "anat", "extension": ".nii.gz"}
    assert [stack.geometry.axis for stack in joint.stacks] == [2, 0, 1]
    assert result.warnings == ()


def test_parallel_stacks_are_repeats_and_stay_apart_unless_asked():
    targets = [target("run-1"), target("run-2")]
    result = plan([t1w()], targets)
    assert labels(result) == ["run-1_FLAIR", "run-2_FLAIR"]
    (warning,) = result.warnings
    assert "count as repeats" in warning
    assert labels(plan([t1w()], targets, combine_stacks="all")) == ["FLAIR"]
    # One repeat among orthogonal stacks leaves it open which of the two belongs to them.
    targets.append(target("acq-sag", voxel_mm=SAGITTAL))
    assert len(plan([t1w()], targets).targets) == 3


def test_none_are_combined_on_request():
    targets = [target("acq-axial"), target("acq-sag", voxel_mm=SAGITTAL)]
    assert labels(plan([t1w()], targets, combine_stacks="none")) == ["acq-axial_FLAIR", "acq-sag_FLAIR"]


def test_chunks_are_parts_of_one_image():
    assert labels(plan([t1w()], [target("chunk-1"), target("chunk-2")])) == ["FLAIR"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"EchoTime": 0.09}, {"EchoTime": 0.12}),
        ({"EchoTime": 0.09, "InversionTime": 2.5}, {"EchoTime": 0.09, "InversionTime": 1.8}),
    ],
)
def test_other_contrasts_stay_apart(first, second):
    targets = [
        target("acq-axial", sidecar={"SliceThickness": 9, **first}),
        target("acq-sag", voxel_mm=SAGITTAL, sidecar={"SliceThickness": 9, **second}),
    ]
    result = plan([t1w()], targets)
    assert labels(result) == ["acq-axial_FLAIR", "acq-sag_FLAIR"]
    assert "differs" in result.warnings[0]


def test_entities_that_change_the_contrast_keep_images_apart():
    targets = [target("acq-axial"), target("acq-sag_ce-gad", voxel_mm=SAGITTAL)]
    assert len(plan([t1w()], targets).targets) == 2


def test_the_given_thickness_reaches_the_geometry():
    (only,) = plan([t1w()], [target()], slice_thickness_mm={"FLAIR": 6.0, "": 5.0}).targets
    assert (only.geometry.thickness_mm, only.geometry.thickness_source) == (6.0, "--slice-thickness")


def dwi(b_values, n_volumes=None, **more):
    n_volumes = len(b_values) if n_volumes is None else n_volumes
    found = image(
        "sub-01_dwi", (3, 3, 9), folder="bids/sub-01/dwi", shape=(24, 24, 8, n_volumes),
        sidecar={"SliceThickness": 9},
    )  # fmt: skip
    gradients = Gradients(np.array(b_values, float), np.zeros((len(b_values), 3)))
    return replace(found, gradients=gradients, **more)


def asl(context, n_volumes=None, name="sub-01_asl"):
    n_volumes = len(context) if n_volumes is None else n_volumes
    found = image(
        name,
        (3, 3, 9),
        folder="bids/sub-01/perf",
        shape=(24, 24, 8, n_volumes),
        sidecar={"SliceThickness": 9},
    )
    return replace(found, asl_context=tuple(context))


def m0(entities="", intended_for=None):
    name = "_".join(filter(None, ["sub-01", entities, "m0scan"]))
    sidecar = {"SliceThickness": 9, **({"IntendedFor": intended_for} if intended_for else {})}
    return image(name, (3, 3, 9), folder="bids/sub-01/perf", sidecar=sidecar)


def test_shells_and_the_reference_of_a_diffusion_series():
    (only,) = plan([t1w()], [dwi([5, 995, 1005, 2000, 0])]).targets
    assert only.series.kinds == ("b0", "b1000", "b1000", "b2000", "b0")
    assert only.series.reference == (0, 4)
    (without_b0,) = plan([t1w()], [dwi([1000, 300, 310])]).targets
    assert without_b0.series.reference == (1, 2)


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (dwi([0, 1000], n_volumes=3), "3 volumes, its bval file 2 values"),
        (dwi([0], problem="sub-01_dwi.nii.gz has no bvec file"), "no bvec file"),
        (asl(["control", "label"], n_volumes=4), "4 volumes, its aslcontext.tsv 2 rows"),
    ],
)
def test_a_series_whose_companions_do_not_fit_fails_alone(series, message):
    result = plan([t1w()], [series, target()])
    assert labels(result) == ["FLAIR"]
    ((_, text),) = result.failures
    assert message in text


def test_asl_is_registered_by_its_m0():
    context = ["control", "label"] * 2
    series = plan([t1w()], [asl(context)]).targets[0].series
    assert (series.reference, series.registered_by) == ((0, 1, 2, 3), None)
    assert series.contrasts == ("control",) * 4
    assert series.is_perfusion
    inside = plan([t1w()], [asl(["m0scan", *context])]).targets[0].series
    assert (inside.reference, inside.registered_by) == ((0,), None)
    separate = plan([t1w()], [asl(context), m0()]).targets[0].series
    assert separate.registered_by.path.name == "sub-01_m0scan.nii.gz"


def test_of_several_m0_scans_the_one_that_names_the_series():
    scans = [m0("run-1"), m0("run-2", "perf/sub-01_asl.nii.gz"), m0("run-3", ["perf/other_asl.nii.gz"])]
    series = plan([t1w()], [asl(["control", "label"]), *scans]).targets[0].series
    assert "run-2" in series.registered_by.path.name
    # One that names another series is no candidate.
    assert plan([t1w()], [asl(["control", "label"]), scans[2]]).targets[0].series.registered_by is None
