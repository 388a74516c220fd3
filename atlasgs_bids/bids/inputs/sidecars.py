"""The JSON sidecars of an image, merged as they are inherited; one that cannot be read is its problem."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlasgs_bids.bids.entities import parse_entities
from atlasgs_bids.errors import InputError
from atlasgs_bids.runtime.files import load_text, names_in

_NUMBERS = (
    "AcquisitionMatrixPE",
    "BaseResolution",
    "EchoTime",
    "FlipAngle",
    "InversionTime",
    "LabelingDuration",
    "MagneticFieldStrength",
    "PostLabelingDelay",
    "ReconMatrixPE",
    "RepetitionTime",
    "RepetitionTimeExcitation",
    "RepetitionTimePreparation",
    "SliceThickness",
    "SpacingBetweenSlices",
)
"""Fields that are a number, or a list of numbers."""
_LISTS_OF_NUMBERS = ("AcquisitionVoxelSize", "SliceTiming")
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
_LONGEST_INTEGER = 300
"""Digits; a float holds 308, and Python refuses to read more than 4,300."""


@dataclass(frozen=True)
class Sidecar:
    """What the sidecars say of one image."""

    fields: Mapping[str, Any]
    """Without null and without top-level NaN and infinity, which say as much."""
    problem: str | None
    """Why a sidecar that applies to the image cannot be used."""


@dataclass(frozen=True)
class SidecarFiles:
    """The sidecars of a dataset; each folder is listed, and each file read, once."""

    bids_dir: Path
    is_ignored: Callable[[Path], bool]
    _folders: dict[Path, list[Path]] = field(default_factory=dict, init=False)
    _files: dict[Path, Sidecar] = field(default_factory=dict, init=False)

    def of_image(self, image: Path) -> Sidecar:
        """The fields that apply to an image: the nearest file counts, then the most specific one."""
        fields: dict[str, Any] = {}
        problem = None
        try:
            inherited = [
                path for folder in _upwards(image, self.bids_dir) for path in self._of(image, folder)
            ]
        except InputError as error:
            return Sidecar({}, str(error))
        for path in inherited:
            if path not in self._files:
                self._files[path] = _read(path)
            fields |= self._files[path].fields
            problem = self._files[path].problem or problem
        return Sidecar(fields, problem)

    def _of(self, image: Path, folder: Path) -> list[Path]:
        """The sidecars in one folder that apply, the most specific last."""
        if folder not in self._folders:
            paths = [folder / name for name in names_in(folder) if name.endswith(".json")]
            self._folders[folder] = [
                path for path in paths if not path.name.startswith(".") and not self.is_ignored(path)
            ]
        applying = [path for path in self._folders[folder] if _inherits(image, path)]
        return sorted(applying, key=lambda path: (len(parse_entities(path)), path.name))


def as_number(value: Any) -> Any:
    """The number that a text says; anything else as it is.

    >>> as_number("5.0"), as_number(" 9e-2"), as_number("5 mm"), as_number([5])
    (5.0, 0.09, '5 mm', [5])
    """
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def _upwards(image: Path, bids_dir: Path) -> list[Path]:
    """The folders from the dataset's root down to the image's."""
    inside = image.parent.relative_to(bids_dir)
    return [bids_dir, *(bids_dir / part for part in reversed([inside, *inside.parents][:-1]))]


def _inherits(image: Path, sidecar: Path) -> bool:
    """Whether the inheritance principle applies a sidecar to an image below its folder."""
    of_image, of_sidecar = parse_entities(image), parse_entities(sidecar)
    for name in ("datatype", "extension"):
        del of_sidecar[name]
    return of_sidecar.items() <= of_image.items()


def _read(path: Path) -> Sidecar:
    try:
        content = json.loads(load_text(path), parse_int=_integer)
        content = _without_half_characters(content)
    except FileNotFoundError:
        return Sidecar({}, f"sidecar {path.name} is a broken link; fetch it (`datalad get`) or remove it")
    except PermissionError as error:
        return Sidecar(
            {},
            f"sidecar {path.name} cannot be read ({error.strerror}), expected a file that this user may "
            "read; give the right to read it (chmod a+r)",
        )
    except (OSError, ValueError, RecursionError) as error:
        return Sidecar({}, f"sidecar {path.name} is not valid JSON ({error}); correct or remove it")
    if not isinstance(content, dict):
        return Sidecar({}, f"sidecar {path.name} holds no JSON object; correct or remove it")
    fields = {name: _clean(name, value) for name, value in content.items()}
    return Sidecar({name: value for name, value in fields.items() if _says_something(value)}, None)


def _integer(text: str) -> int | float:
    """An integer that a float can hold, else infinity: arithmetic with it raises no OverflowError."""
    return int(text) if len(text) <= _LONGEST_INTEGER else float(text)


def _without_half_characters(content: Any) -> Any:
    r"""The content without lone surrogates (``"\ud800"`` is valid JSON), which no file can hold."""
    text = json.dumps(content, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.loads(text.encode("utf-8", "replace"), parse_int=_integer)
    return content


def _clean(name: str, value: Any) -> Any:
    """The value, numbers that were written as text made numbers where they are expected; None: it is none."""
    if name not in (*_NUMBERS, *_LISTS_OF_NUMBERS):
        return value
    if not isinstance(value, list):
        return as_number(value) if name in _NUMBERS else None
    numbers = [as_number(item) for item in value]
    return numbers if name in _NUMBERS or all(map(_is_number, numbers)) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _says_something(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
