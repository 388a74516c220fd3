"""Names and sidecars of the files of the derivative dataset.

Longer than 300 lines: every name of a target stands in one class.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from atlasgs_bids.bids.entities import entity_string

_COPIED_FIELDS = (
    "Manufacturer",
    "ManufacturersModelName",
    "MagneticFieldStrength",
    "MRAcquisitionType",
    "PulseSequenceType",
    "ScanningSequence",
    "SequenceVariant",
    "EchoTime",
    "RepetitionTime",
    "RepetitionTimeExcitation",
    "InversionTime",
    "FlipAngle",
    "ContrastBolusIngredient",
    "ArterialSpinLabelingType",
    "PostLabelingDelay",
    "LabelingDuration",
    "BolusCutOffFlag",
    "BolusCutOffDelayTime",
    "BolusCutOffTechnique",
    "BackgroundSuppression",
    "M0Type",
    "M0Estimate",
    "TotalAcquiredPairs",
    "RepetitionTimePreparation",
    "VascularCrushing",
)
"""Physics of the source's contrast. Free fields may name a person and slice fields no longer hold."""


def derivative_path(
    out_dir: Path, source_entities: Mapping[str, str], suffix: str, extension: str, **entities: str | None
) -> Path:
    """Path of an output: source entities, then ``entities`` (``space``, ``res``, ``desc``; None: left out).

    >>> source = {"subject": "01", "acquisition": "axial", "suffix": "T2w", "datatype": "anat"}
    >>> derivative_path(Path("out"), source, "T2w", ".nii.gz", desc="sr", space="T1w").as_posix()
    'out/sub-01/anat/sub-01_acq-axial_space-T1w_desc-sr_T2w.nii.gz'
    """
    added = {name: value for name, value in entities.items() if value is not None}
    name = entity_string({**source_entities, **added}) + f"_{suffix}{extension}"
    return _session_dir(out_dir, source_entities) / source_entities.get("datatype", "anat") / name


def _session_dir(out_dir: Path, entities: Mapping[str, str]) -> Path:
    session = entities.get("session")
    return out_dir / f"sub-{entities['subject']}" / (f"ses-{session}" if session else "")


def resolution_label(resolution: str | float) -> str:
    """Value of ``res-`` for a ``--resolution``.

    >>> resolution_label("iso"), resolution_label("native"), resolution_label(0.8)
    ('iso', 'native', '0p8mm')
    """
    return resolution if isinstance(resolution, str) else f"{resolution:.6g}mm".replace(".", "p")


@dataclass(frozen=True)
class Naming:
    """What the names of a target's files depend on, beside its entities."""

    out_dir: Path
    resolution: str | float = "iso"
    """Of the output grid, as ``--resolution`` has it."""
    motion: str = "none"
    """As ``--motion`` has it: whether there are tables and figures of the movement of slices or volumes."""
    space: str = "T1w"
    """Suffix of the anchor, after which the space of the results is called."""


@dataclass(frozen=True)
class TargetOutputs:
    """Where each output of one target goes; ``metrics_tsv`` is written last and marks a finished target."""

    sr: Path
    """The result on the output grid."""
    srstd: Path
    """Standard deviation of the result's error, output grid; of a series, of a volume of each kind."""
    srnoisestd: Path
    """The part of it that the slices' noise makes; of a series alone."""
    simulated: Path
    """What the model predicts for the acquired slices, native grid."""
    residual: Path
    """Acquired minus simulated, native grid."""
    fov_mask: Path
    """Where the target's field of view covers the output grid."""
    trusted_mask: Path
    """Where the result may be believed, output grid."""
    flags: Path
    """Labels: where slices contradict the anchor, and where they lie elsewhere; output grid."""
    xfm: Path
    """ITK text; its point map goes from the anchor to the target."""
    deformed_to_anchor: Path
    """ITK displacement field over the anchor: its points to the target's; where the target is displaced."""
    deformed_from_anchor: Path
    """The same over the target: its points to the anchor's."""
    scaffold_npz: Path
    """Amplitudes of the shared Gaussians and the target's own Gaussians."""
    metrics_tsv: Path
    confounds_tsv: Path
    """Where each volume of a series lay."""
    figure: Path

    @property
    def sr_json(self) -> Path:
        return json_path(self.sr)

    @property
    def srstd_json(self) -> Path:
        return json_path(self.srstd)

    @property
    def simulated_json(self) -> Path:
        return json_path(self.simulated)

    @property
    def residual_json(self) -> Path:
        return json_path(self.residual)

    @property
    def fov_mask_json(self) -> Path:
        return json_path(self.fov_mask)

    @property
    def trusted_mask_json(self) -> Path:
        return json_path(self.trusted_mask)

    @property
    def flags_tsv(self) -> Path:
        return json_path(self.flags).with_suffix(".tsv")

    @property
    def xfm_json(self) -> Path:
        return json_path(self.xfm)

    @property
    def scaffold_json(self) -> Path:
        return json_path(self.scaffold_npz)

    @property
    def metrics_json(self) -> Path:
        return json_path(self.metrics_tsv)

    @property
    def motion_tsv(self) -> Path:
        """Where each slice of a stack lay."""
        return self.metrics_tsv.with_name(self.metrics_tsv.name.replace("_desc-sr_", "_desc-motion_"))

    def figure_of(self, kind: str) -> Path:
        """The figure of one kind of volume of a series, such as ``n/a``; a name takes letters and digits."""
        label = re.sub(r"[^0-9a-zA-Z]", "", kind) or "other"
        return self.figure.with_name(self.figure.name.replace("_desc-sr_", f"_desc-{label}_"))

    @property
    def thumbnail(self) -> Path:
        """The result in three small planes, for the page of all participants."""
        return self.figure_of("thumbnail").with_suffix(".jpg")

    @property
    def finished(self) -> bool:
        """Whether an earlier run completed this target."""
        return self.metrics_tsv.exists()


@dataclass(frozen=True)
class AnchorOutputs:
    """Where the outputs that a session's targets share go."""

    anchor: Path
    scaffold_npz: Path
    scaffold_ply: Path

    @property
    def anchor_json(self) -> Path:
        return json_path(self.anchor)

    @property
    def scaffold_json(self) -> Path:
        return json_path(self.scaffold_npz)


def target_outputs(
    out_dir: Path, target_entities: Mapping[str, str], resolution: str | float = "iso", space: str = "T1w"
) -> TargetOutputs:
    """Output paths of a target; ``resolution`` as ``--resolution`` has it, ``space``: the anchor's suffix."""
    suffix = target_entities["suffix"]
    on_grid = {"space": space, "res": resolution_label(resolution)}
    deformed = {"mode": "image", "desc": "deformable"}

    def path(name_suffix: str, extension: str, **entities: str) -> Path:
        return derivative_path(out_dir, target_entities, name_suffix, extension, **entities)

    sr = path(suffix, ".nii.gz", desc="sr", **on_grid)
    figure_folder = out_dir / f"sub-{target_entities['subject']}" / "figures"
    return TargetOutputs(
        sr=sr,
        srstd=path(suffix, ".nii.gz", desc="srstd", **on_grid),
        srnoisestd=path(suffix, ".nii.gz", desc="srnoisestd", **on_grid),
        simulated=path(suffix, ".nii.gz", desc="simulated"),
        residual=path(suffix, ".nii.gz", desc="residual"),
        fov_mask=path("mask", ".nii.gz", desc=f"{suffix}fov", **on_grid),
        trusted_mask=path("mask", ".nii.gz", desc=f"{suffix}trusted", **on_grid),
        flags=path("dseg", ".nii.gz", desc=f"{suffix}flags", **on_grid),
        xfm=path("xfm", ".txt", **{"from": suffix, "to": space, "mode": "image"}),
        deformed_to_anchor=path("xfm", ".nii.gz", **{"from": suffix, "to": space}, **deformed),
        deformed_from_anchor=path("xfm", ".nii.gz", **{"from": space, "to": suffix}, **deformed),
        scaffold_npz=path("scaffold", ".npz", modality=suffix, space=space, desc="atlasgs"),
        # The suffix is "metrics", so the modality that it describes stands in mod-.
        metrics_tsv=path("metrics", ".tsv", modality=suffix, desc="sr", **on_grid),
        confounds_tsv=path("timeseries", ".tsv", modality=suffix, desc="confounds"),
        figure=figure_folder / sr.name.replace(".nii.gz", ".png"),
    )


def anchor_outputs(out_dir: Path, participant: str, session: str | None, space: str = "T1w") -> AnchorOutputs:
    """Output paths that the targets of one session share; ``space``: the anchor's suffix."""
    entities = {"subject": participant, **({"session": session} if session else {})}
    scaffold = {"space": space, "desc": "atlasgs"}
    return AnchorOutputs(
        anchor=derivative_path(out_dir, entities, space, ".nii.gz", desc="anchor"),
        scaffold_npz=derivative_path(out_dir, entities, "scaffold", ".npz", **scaffold),
        scaffold_ply=derivative_path(out_dir, entities, "scaffold", ".ply", **scaffold),
    )


def longitudinal_metrics(out_dir: Path, participant: str, session: str | None, space: str = "T1w") -> Path:
    """Table that compares a session's scaffold with another session's image of the anchor's kind."""
    entities = {"subject": participant, **({"session": session} if session else {})}
    return derivative_path(out_dir, entities, "metrics", ".tsv", modality=space, desc="longitudinal")


def session_page(out_dir: Path, participant: str, session: str | None) -> Path:
    """The page of one session, beside the participant's folder.

    >>> session_page(Path("out"), "01", "a").as_posix()
    'out/sub-01_ses-a.html'
    """
    return out_dir / (f"sub-{participant}" + (f"_ses-{session}" if session else "") + ".html")


def session_rating(page: Path) -> Path:
    """Where a rating that was made on a page is looked for."""
    return page.with_name(page.stem + "_rating.json")


def json_path(path: Path) -> Path:
    """The JSON sidecar beside a file."""
    return path.with_name(path.name.removesuffix(".gz").rsplit(".", 1)[0] + ".json")


def companion_path(image: Path, suffix: str, extension: str) -> Path:
    """A text file beside an image that shares its entities.

    >>> companion_path(Path("sub-01_desc-sr_asl.nii.gz"), "aslcontext", ".tsv").as_posix()
    'sub-01_desc-sr_aslcontext.tsv'
    """
    return image.with_name(f"{image.name.rpartition('_')[0]}_{suffix}{extension}")


def bids_uri(path: Path, bids_dir: Path, dataset: str = "raw") -> str:
    """BIDS URI of a file of the dataset at ``bids_dir``; ``dataset=""``: the one that holds the sidecar.

    >>> bids_uri(Path("/data/sub-01/anat/sub-01_T1w.nii.gz"), Path("/data"))
    'bids:raw:sub-01/anat/sub-01_T1w.nii.gz'
    """
    return f"bids:{dataset}:{quote(path.relative_to(bids_dir).as_posix(), safe='/+')}"


def image_sidecar(
    source_sidecar: Mapping[str, Any],
    *,
    description: str,
    sources: Sequence[str],
    skull_stripped: bool | None = None,
    spatial_reference: str | None = None,
    resolution: str | None = None,
    mask_type: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Sidecar of an output image: what BIDS requires of a derivative, and the physics of its source.

    ``skull_stripped`` for images, ``mask_type`` (``ROI``, ``Brain``) for masks; ``spatial_reference`` with
    ``space-``, ``resolution`` (a text that describes it) with ``res-``; ``sources`` are BIDS URIs.
    """
    required = {
        "Description": description,
        "Sources": list(sources),
        "SkullStripped": skull_stripped,
        "SpatialReference": spatial_reference,
        "Resolution": resolution,
        "Type": mask_type,
    }
    physics = {} if mask_type else {field: source_sidecar.get(field) for field in _COPIED_FIELDS}
    return {name: value for name, value in {**required, **physics, **more}.items() if value is not None}
