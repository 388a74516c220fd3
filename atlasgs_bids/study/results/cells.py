"""A cell is one method on one case: a JSON file that appears whole or not at all, and its cuts."""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atlasgs_bids.runtime.files import atomic, save_json

TRUTH = "truth"
"""Stands in a cell's name in the place of a method, for the truth's own cuts."""


@dataclass(frozen=True, order=True)
class CellKey:
    """Which cell."""

    participant: str
    session: str | None
    target: str
    """``FLAIR``, ``acq-sag_T2w``."""
    factor: int
    method: str

    @property
    def stem(self) -> str:
        """Name of its files, without extension."""
        who = f"sub-{self.participant}" + (f"_ses-{self.session}" if self.session else "")
        return f"{who}_{self.target}_x{self.factor}_{self.method}"


@dataclass(frozen=True)
class Cell:
    key: CellKey
    content: Mapping[str, Any]
    """``status`` (done, not run, failed), ``reason``, ``regions``, ``range``, costs."""

    @property
    def done(self) -> bool:
        return bool(self.content["status"] == "done")


class Cells:
    """The folder with the cells of a study."""

    def __init__(self, out_dir: Path) -> None:
        self.folder = out_dir / "cells"

    def load(self, key: CellKey) -> Cell | None:
        """The cell; None where there is none, or a damaged one."""
        return self._read(self.folder / f"{key.stem}.json")

    def save(self, key: CellKey, content: Mapping[str, Any]) -> None:
        """Write the cell; whoever was quicker with a finished one stays."""
        before = self.load(key)
        if before is not None and before.done and content["status"] != "done":
            return
        about = {"participant": key.participant, "session": key.session, "target": key.target}
        save_json(
            {**about, "factor": key.factor, "method": key.method, **content}, self.folder / f"{key.stem}.json"
        )

    def remove(self, key: CellKey) -> None:
        (self.folder / f"{key.stem}.json").unlink(missing_ok=True)

    def __iter__(self) -> Iterator[Cell]:
        """Every cell, sorted by its name."""
        for path in sorted(self.folder.glob("sub-*.json")):
            cell = self._read(path)
            if cell is not None:
                yield cell

    def save_cuts(self, key: CellKey, cuts: Mapping[str, npt.NDArray[Any]]) -> None:
        with atomic(self.folder / f"{key.stem}.npz") as path:
            np.savez_compressed(path, **cuts)  # type: ignore[arg-type]

    def load_cuts(self, key: CellKey) -> dict[str, npt.NDArray[Any]] | None:
        """The planes through the middle of a cell's image; None where there are none."""
        try:
            with np.load(self.folder / f"{key.stem}.npz", allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    @staticmethod
    def _read(path: Path) -> Cell | None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            names = ("participant", "session", "target", "factor", "method")
            return Cell(CellKey(*(content[name] for name in names)), content)
        except (OSError, ValueError, KeyError, TypeError):
            return None


def middle_cuts(image: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> dict[str, npt.NDArray[np.float32]]:
    """The three planes through the middle of the mask, by voxel axis."""
    voxels = np.argwhere(mask)
    middle = (voxels.min(axis=0) + voxels.max(axis=0)) // 2 if len(voxels) else np.array(mask.shape) // 2
    inside = np.where(mask, image, 0).astype(np.float32)
    return {f"axis{axis}": np.take(inside, int(middle[axis]), axis=axis) for axis in range(3)}
