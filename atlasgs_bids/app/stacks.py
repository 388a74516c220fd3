"""What a plan says of an image -> what the restoration has to know of it."""

from collections.abc import Mapping
from typing import Any

from atlasgs_bids.bids.entities import ECHO_PLANAR_SUFFIXES
from atlasgs_bids.bids.plan.targets import StackPlan
from atlasgs_bids.errors import InputError
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import StackInput

_AXES = {"i": 0, "j": 1, "k": 2}


def stack_input(stack: StackPlan, settings: RestorationSettings) -> StackInput:
    """The planned stack without its place in the dataset.

    InputError where it is to be displaced along an axis that its sidecar does not name.
    """
    source, axis = stack.source, None
    if source.entities.get("suffix") in ECHO_PLANAR_SUFFIXES:
        axis = phase_axis(source.sidecar)
        if axis is None and settings.registration == "deformable":
            stated = source.sidecar.get("PhaseEncodingDirection")
            raise InputError(
                f"{source.path.name}: PhaseEncodingDirection is {stated!r}, expected i, j or k, or one of "
                "them and a minus; add it to the sidecar, or use --registration rigid"
            )
    return StackInput(source.path.name, stack.geometry, source.sidecar, stack.transforms, axis)


def phase_axis(sidecar: Mapping[str, Any]) -> int | None:
    """Voxel axis of the phase encoding, whatever its polarity; None where no sidecar names it.

    >>> phase_axis({"PhaseEncodingDirection": "j-"}), phase_axis({"PhaseEncodingAxis": "i"}), phase_axis({})
    (1, 0, None)
    """
    stated = sidecar.get("PhaseEncodingDirection", sidecar.get("PhaseEncodingAxis"))
    return _AXES.get(stated.removesuffix("-")) if isinstance(stated, str) else None
