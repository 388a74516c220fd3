"""A pCASL series of a real head in thick slices, restored by the app: its difference and blood flow.

    python benchmarks/perfusion.py --scans DIR --device cuda [--thickness 4 6] [--priors graph learned]

DIR/stroke holds T1.nii.gz and T2.nii.gz: brain-extracted, 1 mm, on one grid. Blood flow follows from tissue
(grey 60, white 20, fluid 0 ml/100 g/min) and is halved in a ball of 12 mm that neither image shows. Volumes:
M0, then pairs of control and label with the background suppressed to a tenth, each averaged over voxels of
3 × 3 mm and the thickness, with noise of ``--noise`` (of M0). The app has its defaults but for the prior.
Flow is that of one compartment (Alsop 2015) from the mean difference and M0; cubic is B-spline interpolation
of those two, in the position that the app found. Results: ``--out``/perfusion.json.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from documents import markdown
from series import STEM, averaged, parser_of_series, run_app, stroke_pair, tissue_of, write_dataset

from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.registration.itk_files import read_itk_transform
from atlasgs_bids.imaging.volume import Volume

IN_PLANE = 3
N_PAIRS = 15
GREY, WHITE = 60.0, 20.0
LESION_MM = 12.0
SUPPRESSION = 0.1
PARTITION, EFFICIENCY, BLOOD_T1_S, LABELLING_S, DELAY_S = 0.9, 0.85, 1.65, 1.8, 1.8
DIFFERENCE = (
    2 * EFFICIENCY * BLOOD_T1_S * (1 - np.exp(-LABELLING_S / BLOOD_T1_S)) * np.exp(-DELAY_S / BLOOD_T1_S)
) / (6000 * PARTITION)
"""Of M0, for each ml/100 g/min."""
SIDECAR = {
    "ArterialSpinLabelingType": "PCASL", "PostLabelingDelay": DELAY_S, "LabelingDuration": LABELLING_S,
    "BackgroundSuppression": True, "M0Type": "Included", "TotalAcquiredPairs": N_PAIRS,
    "RepetitionTimePreparation": 4.0, "EchoTime": 0.012, "MagneticFieldStrength": 3,
    "MRAcquisitionType": "2D",
}  # fmt: skip

Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """What is known, on the anchor's grid of 1 mm."""

    anchor: Volume
    m0: Image
    flow: Image
    """ml/100 g/min."""
    grey: npt.NDArray[np.bool_]
    white: npt.NDArray[np.bool_]
    lesion: npt.NDArray[np.bool_]


def main() -> int:
    options = parse_options()
    if not all((options.scans / "stroke" / f"{name}.nii.gz").exists() for name in ("T1", "T2")):
        print(f"skipped: {options.scans}/stroke has no T1.nii.gz and T2.nii.gz; give the folder with --scans")
        return 0
    head, rows = head_of(options), []
    for thickness in options.thickness:
        bids_dir, _, volumes = simulated(head, thickness, options.noise, options)
        for prior in options.priors:
            rows.append(
                {"thickness": thickness, "prior": prior, **restored(bids_dir, head, volumes, prior, options)}
            )
            print(json.dumps(rows[-1]), flush=True)
            (options.out / "perfusion.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    return 0


def parse_options() -> argparse.Namespace:
    parser = parser_of_series("Restore a simulated pCASL series.", [4, 6])
    parser.add_argument("--noise", type=float, default=0.002, help="standard deviation, of M0")
    return parser.parse_args()


def head_of(options: argparse.Namespace) -> Head:
    anchor, t2w = stroke_pair(options)
    inside, tissue = anchor.data > 0, tissue_of(anchor, t2w)
    fluid = np.clip((tissue.diffusivity - 0.8e-3 + 0.4e-3 * tissue.white) / 2.2e-3, 0, 1)
    grey = np.clip(1 - tissue.white - fluid, 0, 1)
    flow = np.where(inside, GREY * grey + WHITE * tissue.white, 0).astype(np.float32)
    # A quarter of the head's width to one side of its middle.
    points = np.moveaxis(np.indices(inside.shape), 0, -1) @ anchor.world_from_voxel[:3, :3].T
    centre = points[inside].mean(0)
    centre[0] += 0.25 * np.ptp(points[inside][:, 0])
    lesion = (np.linalg.norm(points - centre, axis=-1) < LESION_MM) & inside
    flow[lesion] *= 0.5
    m0 = np.where(inside, 800 * grey + 700 * tissue.white + 1000 * fluid, 0).astype(np.float32)
    return Head(
        anchor, m0, flow, (grey > 0.9) & inside & ~lesion, (tissue.white > 0.9) & inside & ~lesion, lesion
    )


def simulated(
    head: Head, thickness: int, noise: float, options: argparse.Namespace
) -> tuple[Path, list[Image], list[Volume]]:
    """A dataset, each volume's truth, and as it is acquired: M0, then control and label in turn.

    ``noise``: standard deviation, of M0's 95th percentile; values in steps of an eighth.
    """
    control = SUPPRESSION * head.m0
    label = control - DIFFERENCE * head.flow * head.m0
    truth = [head.m0, *(control, label) * N_PAIRS]
    rng = np.random.default_rng(0)
    sd = noise * float(np.percentile(head.m0[head.anchor.data > 0], 95))
    volumes = [
        averaged(Volume(image, head.anchor.world_from_voxel), (IN_PLANE, IN_PLANE, thickness), sd, rng)
        for image in truth
    ]
    bids_dir = options.out / f"perfusion-{thickness}mm"
    series = write_dataset(bids_dir, "perf/asl", head.anchor, volumes, {"SkullStripped": True}, SIDECAR)
    context = ["volume_type", "m0scan", *(("control", "label") * N_PAIRS)]
    series.with_name(f"{STEM}_aslcontext.tsv").write_text("\n".join(context) + "\n", encoding="utf-8")
    return bids_dir, truth, volumes


def restored(
    bids_dir: Path, head: Head, volumes: Sequence[Volume], prior: str, options: argparse.Namespace
) -> dict[str, Any]:
    """The app's run and its scores beside cubic's."""
    out_dir, costs = run_app(bids_dir, prior, options)
    (path,) = out_dir.glob("sub-*/perf/*_desc-sr_asl.nii.gz")
    (xfm,) = out_dir.glob("sub-*/perf/*_xfm.txt")
    target_from_anchor = read_itk_transform(xfm)
    series = np.asarray(nib.Nifti1Image.from_filename(path).dataobj, dtype=np.float32)
    ours = series[..., 0], (series[..., 1::2] - series[..., 2::2]).mean(3)
    world = volumes[0].world_from_voxel
    control, label = (np.mean([volume.data for volume in volumes[first::2]], axis=0) for first in (1, 2))
    cubic = [
        resample(Volume(image, world), head.anchor.grid, target_from_anchor)
        for image in (volumes[0].data, control - label)
    ]
    return {**costs, "cubic": scores(head, *cubic), "atlasgs": scores(head, *ours)}


def scores(head: Head, m0: Image, difference: Image) -> dict[str, float]:
    """PSNR of the difference and of M0, error of the flow, and its means by region over the true ones."""
    inside = head.anchor.data > 0
    # M0 is smooth in tissue and 0 outside: where it is least it would be divided by noise.
    found = difference / (DIFFERENCE * np.maximum(m0, 0.25 * np.percentile(m0[inside], 50)))
    error = (found - head.flow)[inside]
    regions = {"grey": head.grey, "white": head.white, "lesion": head.lesion}
    return {
        "difference_db": psnr_db(DIFFERENCE * head.flow * head.m0, difference, inside),
        "m0_db": psnr_db(head.m0, m0, inside),
        "flow_rms": float(np.sqrt(np.mean(error**2))),
        **{name: float(found[where].mean() / head.flow[where].mean()) for name, where in regions.items()},
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: each thickness by cubic and by each prior."""
    head = ["slices, mm", "by", "control − label, dB", "M0, dB", "flow, RMS error", "grey", "white", "lesion"]
    lines: list[list[str]] = []
    told = set()
    for row in rows:
        thickness = row["thickness"]
        shown = [(row["prior"], row["atlasgs"])]
        if thickness not in told:
            told.add(thickness)
            shown.insert(0, ("cubic", row["cubic"]))
        for name, found in shown:
            values = [f"{found['difference_db']:.2f}", f"{found['m0_db']:.2f}", f"{found['flow_rms']:.1f}"]
            values += [f"{found[region]:.2f}" for region in ("grey", "white", "lesion")]
            lines.append([str(thickness), name, *values])
    return markdown(head, lines).rstrip()


if __name__ == "__main__":
    sys.exit(main())
