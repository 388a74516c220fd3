"""Name of a method -> the method; its libraries are loaded when it is asked for."""

from importlib import import_module
from typing import cast

from atlasgs_bids.study.methods.protocol import Method

_PLACES = {
    "cubic": "cubic.METHOD",
    "cubic-displaced": "cubic.DISPLACED",
    "spline": "spline",
    "graph": "atlasgs.GRAPH",
    "learned": "atlasgs.LEARNED",
    "offset": "atlasgs.OFFSET",
    "offset-learned": "atlasgs.OFFSET_LEARNED",
    "joint": "atlasgs.JOINT",
    "joint-learned": "atlasgs.JOINT_LEARNED",
    "own": "atlasgs.OWN",
    "own-learned": "atlasgs.OWN_LEARNED",
    "fitted": "atlasgs.FITTED",
    "distance": "atlasgs.DISTANCE",
    "inr": "inr.METHOD",
    "inr-t1": "inr.WITH_T1",
    "paper": "published.method.METHOD",
    "paper-color": "published.method.COLOR",
    "paper-profile": "published.method.PROFILE",
    "paper-persistence": "published.method.PERSISTENCE",
    "eclare": "eclare",
}
"""Module, and the name in it in capitals, of each; a module alone is a method itself."""


def method_named(name: str) -> Method:
    """The method; KeyError where there is none of that name."""
    module_name, _, attribute = _PLACES[name].rpartition(".")
    if not attribute.isupper():
        module_name, attribute = _PLACES[name], ""
    module = import_module(f"atlasgs_bids.study.methods.{module_name}")
    return cast("Method", getattr(module, attribute) if attribute else module)
