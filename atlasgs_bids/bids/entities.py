"""BIDS file names <-> entities, in the order of the specification."""

from collections.abc import Mapping
from pathlib import PurePath

from atlasgs_bids.runtime.extensions import split_extension

INPUT_SUFFIXES = {
    "t1w": "T1w", "unit1": "UNIT1", "mp2rage": "MP2RAGE", "flair": "FLAIR", "t2w": "T2w", "pdw": "PDw",
    "dwi": "dwi", "asl": "asl", "m0scan": "m0scan",
}  # fmt: skip
"""Kind of input (the key in a filter file) -> BIDS suffix."""

ANCHOR_SUFFIXES = ("T1w", "UNIT1", "T2w", "FLAIR")
"""What an anchor may be, in the order of ``--anchor auto``."""

TARGET_SUFFIXES = ("FLAIR", "T2w", "PDw", "dwi", "asl", "m0scan")
"""What is restored beside any anchor."""

RESTORED_SUFFIXES = ("T1w", *TARGET_SUFFIXES)
"""What may be restored: a T1w where another contrast is the anchor."""

ECHO_PLANAR_SUFFIXES = ("dwi", "asl", "m0scan")
"""Of targets that are displaced along their phase-encoding axis."""

DATATYPES = {"dwi": "dwi", "asl": "perf", "m0scan": "perf"}
"""Suffix -> the folder it lies in, where that is not ``anat``."""

ENTITIES = (
    ("sub", "subject"),
    ("ses", "session"),
    ("sample", "sample"),
    ("task", "task"),
    ("acq", "acquisition"),
    ("nuc", "nucleus"),
    ("voi", "volume"),
    ("ce", "ceagent"),
    ("trc", "tracer"),
    ("stain", "staining"),
    ("rec", "reconstruction"),
    ("dir", "direction"),
    ("run", "run"),
    ("mod", "modality"),
    ("echo", "echo"),
    ("flip", "flip"),
    ("inv", "inv"),
    ("mt", "mt"),
    ("part", "part"),
    ("proc", "proc"),
    ("hemi", "hemi"),
    ("chunk", "chunk"),
    ("from", "from"),
    ("to", "to"),
    ("mode", "mode"),
    ("space", "space"),
    ("seg", "segmentation"),
    ("res", "res"),
    ("den", "den"),
    ("label", "label"),
    ("desc", "desc"),
)
"""Key in a file name and pybids' name of each entity, in the order in which a name lists them."""

DERIVATIVE_ENTITIES = ("space", "segmentation", "res", "den", "label", "desc")
"""Entities that no raw image has."""

FILTER_ENTITIES = frozenset(name for _, name in ENTITIES) | {"suffix", "datatype", "extension"}
"""What a --bids-filter-file may ask for by pybids' name."""

_NAMES = dict(ENTITIES)
_KEYS = {name: key for key, name in ENTITIES}
_ORDER = {name: position for position, (_, name) in enumerate(ENTITIES)}
_NOT_IN_THE_NAME = ("suffix", "extension", "datatype")


def parse_entities(path: PurePath) -> dict[str, str]:
    """Entities of a file by its own name, with ``suffix``, ``extension`` and ``datatype`` (its folder).

    pybids matches its patterns against the whole path, so that a dataset below a folder called
    ``ses-1`` gets a session; here only the name speaks.

    >>> parse_entities(PurePath("sub-01/anat/sub-01_acq-axial_run-02_T2w.nii.gz"))["run"]
    '02'
    """
    stem, extension = split_extension(path.name)
    *pairs, suffix = stem.split("_")
    entities = {}
    for pair in pairs:
        key, _, value = pair.partition("-")
        entities[_NAMES.get(key, key)] = value
    return {**entities, "suffix": suffix, "extension": extension, "datatype": path.parent.name}


def entity_string(entities: Mapping[str, str]) -> str:
    """The part of a name before the suffix, in the order of the specification.

    >>> entity_string({"desc": "sr", "subject": "01", "run": "02"})
    'sub-01_run-02_desc-sr'
    """
    named = [(name, value) for name, value in entities.items() if name not in _NOT_IN_THE_NAME and value]
    named.sort(key=lambda pair: _ORDER.get(pair[0], _ORDER["from"]))
    return "_".join(f"{_KEYS.get(name, name)}-{value}" for name, value in named)


def image_label(entities: Mapping[str, str]) -> str:
    """Short name of one image of a session: ``FLAIR``, ``acq-axial_T2w``.

    >>> image_label({"subject": "01", "acquisition": "axial", "suffix": "T2w"})
    'acq-axial_T2w'
    """
    own = entity_string(
        {name: value for name, value in entities.items() if name not in ("subject", "session")}
    )
    return "_".join(filter(None, [own, entities["suffix"]]))


def session_label(participant: str, session: str | None) -> str:
    """How messages call one session of a participant: ``sub-01`` or ``sub-01 ses-1``."""
    return f"sub-{participant}" + (f" ses-{session}" if session else "")
