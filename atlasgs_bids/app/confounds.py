"""The movement of a series as files: table, its dictionary and figure; and back from the table."""

import numpy as np
import numpy.typing as npt

from atlasgs_bids.app.target import TargetRun
from atlasgs_bids.bids.outputs.names import json_path
from atlasgs_bids.imaging.slice_motion import SlicePosition
from atlasgs_bids.imaging.volume_motion import SeriesMotion
from atlasgs_bids.report.columns import confounds_dictionary
from atlasgs_bids.report.figures.confounds import confounds_figure
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.guides import Guides
from atlasgs_bids.runtime.files import atomic, load_tsv, save_json, save_tsv

_TRANSLATIONS = ("trans_x", "trans_y", "trans_z")
_ROTATIONS = ("rot_x", "rot_y", "rot_z")


def write_confounds(
    run: TargetRun, motion: SeriesMotion, anchor: Anchor, target_from_anchor: npt.NDArray[np.float64]
) -> None:
    """Where every volume lay, and which slices lost their signal: a row for each, and a figure of these."""
    table = run.outputs.confounds_tsv
    rows = [
        {
            **dict(zip(_TRANSLATIONS, position.translation_mm, strict=True)),
            **dict(zip(_ROTATIONS, np.radians(position.rotation_deg).tolist(), strict=True)),
            "framewise_displacement": motion.framewise_displacement_mm[v],
            "position_error": motion.errors_mm[v],
            "moved": not motion.at_rest(v),
            "n_lost_slices": len(motion.lost[v]),
            "lost_slices": ",".join(map(str, motion.lost[v])) or None,
        }
        for v, position in enumerate(motion.positions)
    ]
    save_tsv(rows, table)
    written = read_confounds(run, anchor, target_from_anchor)
    assert written is not None
    describe_confounds(run, written)


def describe_confounds(run: TargetRun, motion: SeriesMotion) -> None:
    """What goes with the table of a movement: its dictionary, and its figure."""
    save_json(confounds_dictionary(), json_path(run.outputs.confounds_tsv))
    header = run.target.source.header
    assert header is not None, "an image without header has a problem"
    n_slices = header.shape[run.target.stacks[0].geometry.axis]
    with atomic(run.outputs.figure_of("confounds")) as path:
        confounds_figure(path, motion, n_slices, f"Movement of {run.target.source.path.name}")


def read_confounds(
    run: TargetRun, anchor: Anchor, target_from_anchor: npt.NDArray[np.float64]
) -> SeriesMotion | None:
    """The movement that an earlier run has written; None: it looked for none."""
    table = run.outputs.confounds_tsv
    if not table.exists():
        return None
    rows = load_tsv(table)
    centre = Guides(anchor).frame.centre_mm.numpy()
    x, y, z = (target_from_anchor[:3, :3] @ centre + target_from_anchor[:3, 3]).tolist()

    def three(row: dict[str, str], names: tuple[str, ...]) -> tuple[float, float, float]:
        first, second, third = (float(row[name]) for name in names)
        return first, second, third

    positions = []
    for row in rows:
        turn = np.degrees(three(row, _ROTATIONS)).tolist()
        positions.append(SlicePosition(three(row, _TRANSLATIONS), (turn[0], turn[1], turn[2]), 1.0))
    return SeriesMotion(
        tuple(positions),
        tuple(float(row["position_error"]) for row in rows),
        tuple(
            () if row["lost_slices"] == "n/a" else tuple(map(int, row["lost_slices"].split(",")))
            for row in rows
        ),
        (x, y, z),
    )
