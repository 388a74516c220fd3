"""Write the inputs and the command line of boutiques.json from the real options: `make boutiques`."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from atlasgs_bids.app.cli import main as command
from atlasgs_bids.runtime.options import SpaceListOption, long_name
from atlasgs_bids.version import __version__

DESCRIPTOR = Path(__file__).parent.parent / "boutiques.json"

_POSITIONALS: list[dict[str, Any]] = [
    {
        "id": "bids_dir",
        "name": "BIDS dataset",
        "description": "Root of the dataset; it is only ever read.",
        "type": "File",
        "value-key": "[BIDS_DIR]",
    },
    # `bosh validate --bids` wants the output folder twice, as a name and as a file. Only the first of two
    # inputs with one key reaches the command line, so that one is the one to give.
    {
        "id": "output_dir_name",
        "name": "Output folder",
        "description": "Folder for the results, which is made where it does not exist.",
        "type": "String",
        "value-key": "[OUTPUT_DIR]",
    },
    {
        "id": "output_dir",
        "name": "Output folder (file)",
        "description": "For platforms that look for it as a file; output_dir_name says which one it is.",
        "type": "File",
        "value-key": "[OUTPUT_DIR]",
        "optional": True,
    },
    {
        "id": "analysis_level",
        "name": "Analysis level",
        "description": "participant restores images; group then gathers their metrics.",
        "type": "String",
        "value-key": "[ANALYSIS_LEVEL]",
        "value-choices": ["participant", "group"],
    },
]
_BIDS_KEYS = {"session-id": "[SESSION_LABEL]"}
"""Where the name that BIDS platforms expect is not the option's own."""


def described(descriptor: dict[str, Any]) -> dict[str, Any]:
    """The descriptor with inputs, command line and version of this command."""
    options = [_input(option) for option in public_options()]
    first = ["[PARTICIPANT_LABEL]", "[SESSION_LABEL]"]
    keys = first + [option["value-key"] for option in options if option["value-key"] not in first]
    line = "mkdir -p [OUTPUT_DIR]; atlasgs [BIDS_DIR] [OUTPUT_DIR] [ANALYSIS_LEVEL] " + " ".join(keys)
    image = {**descriptor["container-image"], "image": f"atlasgs:{__version__}"}
    return {
        **descriptor,
        "tool-version": __version__,
        "container-image": image,
        "command-line": line,
        "inputs": [*_POSITIONALS, *options],
    }


def public_options() -> list[click.Option]:
    """Every option but --version and --help, which a platform has no use for."""
    return [
        param
        for param in command.params
        if isinstance(param, click.Option) and param.name != "version" and not param.hidden
    ]


def _input(option: click.Option) -> dict[str, Any]:
    name = long_name(option)
    default = option.default if isinstance(option.default, (str, int, float)) else None
    shown = f" [default: {default}]" if option.show_default and default is not None else ""
    return {
        "id": name.replace("-", "_"),
        "name": f"--{name}",
        "description": (option.help or "Seed of the random numbers.") + shown,
        "command-line-flag": f"--{name}",
        "value-key": _BIDS_KEYS.get(name, f"[{name.replace('-', '_').upper()}]"),
        "optional": True,
        **_type(option),
    }


def _type(option: click.Option) -> dict[str, Any]:
    kind = option.type
    if option.is_flag or option.count:
        return {"type": "Flag"}
    if isinstance(option, SpaceListOption):
        return {"type": "String", "list": True}
    if isinstance(kind, click.Choice):
        return {"type": "String", "value-choices": list(kind.choices)}
    if isinstance(kind, (click.IntRange, click.FloatRange)):
        bounds = {
            "minimum": kind.min,
            "maximum": kind.max,
            "exclusive-minimum": kind.min_open or None,
            "exclusive-maximum": kind.max_open or None,
        }
        return {
            "type": "Number",
            "integer": isinstance(kind, click.IntRange),
            **{key: value for key, value in bounds.items() if value is not None},
        }
    return {"type": "File" if isinstance(kind, click.Path) and kind.exists else "String"}


def text_of(descriptor: dict[str, Any]) -> str:
    return json.dumps(descriptor, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    content = json.loads(DESCRIPTOR.read_text(encoding="utf-8"))
    DESCRIPTOR.write_text(text_of(described(content)), encoding="utf-8")
    sys.stdout.write(f"{DESCRIPTOR.name}: {len(public_options())} options\n")
