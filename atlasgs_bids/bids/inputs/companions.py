"""The text files beside a 4-D image: b values and directions, what each ASL volume is."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from atlasgs_bids.bids.entities import parse_entities
from atlasgs_bids.bids.images import Gradients, ImageFile
from atlasgs_bids.errors import InputError
from atlasgs_bids.runtime.files import load_text, load_tsv, names_in

B0_AT_MOST = 50.0
"""s/mm²; scanners write up to 50 for what is meant as none."""
ASL_VOLUME_TYPES = ("control", "label", "m0scan", "deltam", "cbf", "noRF", "n/a")


def inherited(image: Path, suffix: str, extension: str, bids_dir: Path) -> Path | None:
    """The file of ``suffix`` and ``extension`` that applies to an image: nearest, then most specific."""
    of_image = {name: value for name, value in parse_entities(image).items() if name != "suffix"}
    folder = image.parent
    while True:
        candidates = []
        # In the dataset's root a file may have no entity at all: ``dwi.bval``.
        for name in names_in(folder):
            if not name.endswith(f"{suffix}{extension}") or name.startswith("."):
                continue
            path = folder / name
            entities = parse_entities(path)
            own = {n: v for n, v in entities.items() if n not in ("suffix", "extension", "datatype")}
            if entities["suffix"] == suffix and own.items() <= of_image.items():
                candidates.append((len(own), path.name, path))
        if candidates:
            return max(candidates)[2]
        if folder in (bids_dir, folder.parent):
            return None
        folder = folder.parent


def read_gradients(b_value_path: Path, direction_path: Path) -> Gradients:
    """Gradients from ``bval`` and ``bvec``; three rows as FSL writes them, or three columns.

    A volume without weighting has no direction: NaN and n/a are 0 there.
    """
    b_values = _numbers(b_value_path).reshape(-1)
    if not np.isfinite(b_values).all():
        raise _not_finite(b_value_path)
    directions = _numbers(direction_path)
    if directions.ndim == 2 and directions.shape == (3, len(b_values)):
        directions = directions.T
    if directions.shape != (len(b_values), 3):
        raise InputError(
            f"{direction_path.name}: {' x '.join(map(str, directions.shape))} numbers for {len(b_values)} "
            f"b values, expected 3 x {len(b_values)}; convert the scan again from DICOM"
        )
    directions = np.where(np.isnan(directions) & (b_values <= B0_AT_MOST)[:, None], 0.0, directions)
    if not np.isfinite(directions).all():
        raise _not_finite(direction_path)
    return Gradients(b_values, directions)


def gradients_text(gradients: Gradients) -> tuple[str, str]:
    """Content of ``bval`` and ``bvec``.

    >>> gradients_text(Gradients(np.array([0.0, 1000.0]), np.array([[0.0, 0, 0], [0.6, 0, 0.8]])))
    ('0 1000\\n', '0 0.6\\n0 0\\n0 0.8\\n')
    """
    rows = [" ".join(f"{value:.8g}" for value in row) for row in gradients.directions.T + 0.0]
    return " ".join(f"{value:g}" for value in gradients.b_values) + "\n", "\n".join(rows) + "\n"


def read_asl_context(path: Path) -> tuple[str, ...]:
    """``volume_type`` of every volume."""
    try:
        rows: list[Mapping[str, str]] = list(load_tsv(path))
        context = tuple(row["volume_type"].strip() for row in rows)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path.name}: no table with a column volume_type ({error}); write it as BIDS describes it"
        ) from error
    unknown = sorted(set(context) - set(ASL_VOLUME_TYPES))
    if unknown:
        expected = ", ".join(ASL_VOLUME_TYPES)
        raise InputError(f"{path.name}: volume types {', '.join(unknown)}, expected {expected}; correct it")
    return context


def with_companions(
    image: ImageFile, bids_dir: Path, raw_context: tuple[str, ...] | None = None
) -> ImageFile:
    """The image with its gradients or its ASL context, else that of its raw series; InputError where they are
    missing."""
    suffix = image.entities["suffix"]
    if suffix == "dwi":
        found = [inherited(image.path, "dwi", extension, bids_dir) for extension in (".bval", ".bvec")]
        if found[0] is None or found[1] is None:
            missing = "bvec" if found[0] else "bval"
            raise InputError(
                f"{image.path.name} has no {missing} file, expected one beside it or above it; "
                "convert the scan again from DICOM, or leave it out with --bids-filter-file"
            )
        return replace(image, gradients=read_gradients(found[0], found[1]))
    if suffix == "asl":
        context = inherited(image.path, "aslcontext", ".tsv", bids_dir)
        if context is None and raw_context is not None:
            return replace(image, asl_context=raw_context)
        if context is None:
            raise InputError(
                f"{image.path.name} has no aslcontext.tsv, expected one that says what each volume is; write "
                "it as BIDS describes it"
            )
        return replace(image, asl_context=read_asl_context(context))
    return image


def _numbers(path: Path) -> npt.NDArray[np.float64]:
    """The table of a text file, in the order of its lines; between numbers stand blanks, commas or both."""
    try:
        lines = [line.split("#")[0].replace(",", " ").split() for line in load_text(path).splitlines()]
        rows = [[np.nan if word.lower() == "n/a" else float(word) for word in line] for line in lines if line]
        numbers = np.array(rows, dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path.name}: no table of numbers ({error}); copy it anew from its source"
        ) from error
    if numbers.size == 0:
        raise InputError(f"{path.name}: empty, expected a table of numbers; copy it anew from its source")
    return numbers


def _not_finite(path: Path) -> InputError:
    return InputError(
        f"{path.name}: a number of a weighted volume is not finite, expected finite ones; "
        "copy it anew from its source"
    )
