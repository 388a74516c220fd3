"""``--bids-filter-file``: whether an image is what it asks for, by its name and by its sidecar."""

from collections.abc import Mapping
from typing import Any

_ABSENT = (None, "Query.NONE")
_PRESENT = ("*", "Query.ANY", "Query.REQUIRED")


def fits(stated: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether entities or fields are what a filter asks for; a list asks for any of its values.

    >>> fits({"run": "02"}, {"run": 2}), fits({"run": "5F"}, {"run": ["5F", "6F"]}), fits({}, {"run": None})
    (True, True, True)
    >>> fits({"EchoTime": 0.1}, {"EchoTime": 0.2}), fits({"EchoTime": 0.1}, {"EchoTime": "*"})
    (False, True)
    """
    return all(_is_any_of(name, stated.get(name), value) for name, value in asked.items())


def _is_any_of(name: str, stated: Any, asked: Any) -> bool:
    values = asked if isinstance(asked, list) and asked != stated else [asked]
    return not values or any(_is(name, stated, value) for value in values)


def _is(name: str, stated: Any, value: Any) -> bool:
    if value == "Query.OPTIONAL":
        return True
    if value in _ABSENT:
        return stated is None
    if stated is None or value in _PRESENT:
        return stated is not None
    # Runs are numbered: run-02 is the second one. Other labels that start with a zero are names.
    if name == "run" or _is_number(value):
        numbers = _number(stated), _number(value)
        if None not in numbers:
            return numbers[0] == numbers[1]
    return bool(stated == value) or str(stated) == str(value)


def _number(value: Any) -> float | None:
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return float(value)
    return float(value) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
