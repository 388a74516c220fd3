"""Name of a method -> the method; its libraries are loaded when it is asked for."""

from importlib import import_module
from typing import cast

from atlasgs_bids.study.methods.protocol import Method

_PLACES = {
    "cubic": "cubic.METHOD",
    "cubic-displaced": "cubic.DISPLACED",
    "graph": "graph.METHOD",
    "learned": "learned.METHOD",
    "offset": "offset.METHOD",
    "offset-learned": "offset.LEARNED",
    "joint": "joint.METHOD",
    "joint-learned": "joint.LEARNED",
    "own": "own.METHOD",
    "own-learned": "own.LEARNED",
    "inr": "inr.METHOD",
    "inr-t1": "inr_t1.METHOD",
    "paper": "paper.METHOD",
    "paper-color": "paper.COLOR",
    "paper-profile": "paper.PROFILE",
    "paper-persistence": "paper.PERSISTENCE",
    "eclare": "eclare",
}
"""Module, and the name in it, of each; a module alone is a method itself."""


def method_named(name: str) -> Method:
    """The method; KeyError where there is none of that name."""
    module_name, _, attribute = _PLACES[name].partition(".")
    module = import_module(f"atlasgs_bids.study.methods.{module_name}")
    return cast("Method", getattr(module, attribute) if attribute else module)
