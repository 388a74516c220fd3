"""The settings of finished results as a configuration file that makes them again."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

_NO_OPTIONS = ("version",)
_BY_SUFFIX = "slice-thickness"
"""Options that take SUFFIX=VALUE, so that one file serves targets that differ."""
_FILES = ("slice-profile", "scaffold")
_NAMED_FOLDERS = "derivatives"


def settings_toml(targets: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Options by their long names, of suffix and ``Settings`` of each target.

    What TOML cannot say, and what targets differ in, is a comment.

    >>> print(settings_toml([("FLAIR", {"seed": 3, "slice-thickness": 5.0}), ("T2w", {"seed": 3})]), end="")
    seed = 3
    slice-thickness = ["FLAIR=5"]
    """
    lines: list[str] = []
    for name in dict.fromkeys(name for _, settings in targets for name in settings):
        if name in _NO_OPTIONS:
            continue
        values = {suffix: settings[name] for suffix, settings in targets if settings.get(name) is not None}
        if name == _BY_SUFFIX:
            stated = [f"{suffix}={value:g}" for suffix, value in values.items()]
            lines += [f"{name} = {json.dumps(stated)}"] if stated else []
            continue
        different = list({json.dumps(value): value for value in values.values()}.values())
        if len(different) > 1:
            lines.append(f"# {name} differs: {_comment(values)}")
        lines += _line(name, different[0]) if different else []
    return "\n".join(lines) + "\n" if lines else "# all as by default\n"


def _line(name: str, value: Any) -> list[str]:
    if name == _NAMED_FOLDERS:
        return [f"# {name}: give {', '.join(map(_plain, value))} as NAME=PATH"] if value else []
    if name in _FILES and isinstance(value, str) and " (" in value:
        return [f"# {name}: the file {_plain(value)}"]
    if isinstance(value, (bool, int, float, str)):
        return [f"{name} = {json.dumps(value)}"]
    return [f"# {name}: {_plain(value)}"]


def _comment(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{suffix} {_plain(value)}" for suffix, value in values.items())


def _plain(value: Any) -> str:
    """On one line, whatever a file holds."""
    return " ".join(str(value).split())
