"""Images by their headers alone, and the plan of a session of them: no file is read."""

from dataclasses import replace
from pathlib import Path

from atlasgs_bids.bids.entities import parse_entities
from atlasgs_bids.bids.images import ImageFile, ImageHeader
from atlasgs_bids.bids.inputs.discover import SubjectInputs
from atlasgs_bids.bids.outputs.names import Naming
from atlasgs_bids.bids.plan.session import plan_subject
from atlasgs_bids.bids.plan.settings import PlanSettings
from tests.bids_datasets import FIELD_OF_VIEW_MM, affine_of

NAMING = Naming(Path("out"))


def image(
    name, voxel_mm=(3.0, 3.0, 3.0), *, folder="bids/sub-01/anat", shape=None, sidecar=None, problem=None
):
    """An ImageFile whose header was made up: both forms set and equal."""
    path = Path(folder) / f"{name}.nii.gz"
    shape = shape or tuple(round(FIELD_OF_VIEW_MM / side) for side in voxel_mm)
    affine = affine_of(voxel_mm, shape)
    header = None if problem else ImageHeader(shape, affine, affine, 1, affine, 1)
    return ImageFile(path, parse_entities(path), sidecar or {}, header, problem)


def t1w(entities="", voxel_mm=(3.0, 3.0, 3.0), **more):
    return image("_".join(filter(None, ["sub-01", entities, "T1w"])), voxel_mm, **more)


def target(entities="", suffix="FLAIR", voxel_mm=(3.0, 3.0, 9.0), **more):
    more = {"sidecar": {"SliceThickness": max(voxel_mm)}, **more}
    return image("_".join(filter(None, ["sub-01", entities, suffix])), voxel_mm, **more)


def plan(anchors, targets=(), masks=(), session=None, resolution="iso", **settings):
    inputs = SubjectInputs("01", session, tuple(anchors), tuple(targets), tuple(masks), None)
    return plan_subject(inputs, PlanSettings(**settings), replace(NAMING, resolution=resolution))
