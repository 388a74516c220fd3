"""What a result was made with, for its sidecar; and where a finished one differs from what is asked for now.

Loads no torch: a run over a thousand finished participants asks it for each target.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.bids.images import ImageFile
from atlasgs_bids.bids.outputs.names import bids_uri, target_outputs
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.bids.plan.targets import TargetPlan
from atlasgs_bids.runtime.files import load_json, plain_json
from atlasgs_bids.version import __version__

_VERSION = "version"
_CHOOSE_INPUTS = ("combine-stacks", "anchor", "anchor-session", "derivatives", "targets-from")
"""Options that change a result by the images it is made from alone."""
_END_BYTES = 2**16


def source_uri(path: Path, config: RunConfig) -> str:
    """BIDS URI of an input, in the dataset or in another pipeline's results; its name if in neither."""
    for name, folder in config.derivatives.items():
        if path.is_relative_to(folder):
            return bids_uri(path, folder, name)
    return bids_uri(path, config.bids_dir) if path.is_relative_to(config.bids_dir) else path.name


def provenance(plan: SubjectPlan, target: TargetPlan, config: RunConfig) -> dict[str, Any]:
    """Fields of a result's sidecar: ``Settings``, by option, and ``InputFingerprints``."""
    return {"Settings": settings_of(target, config), "InputFingerprints": _fingerprints(plan, target, config)}


def differences(plan: SubjectPlan, target: TargetPlan, config: RunConfig) -> str:
    """How a finished target was made otherwise than one would be now, as the end of a sentence; "": likewise.

    What its sidecar does not say, as an earlier version wrote it, does not differ.
    """
    outputs = target_outputs(config.out_dir, target.entities, config.restoration.resolution, plan.space)
    stored = load_json(outputs.sr_json)
    now = plain_json(provenance(plan, target, config))
    inputs = _input_differences(stored.get("InputFingerprints"), now["InputFingerprints"])
    settings = stored.get("Settings")
    before = settings if isinstance(settings, dict) else {}
    changed = {name: (before[name], value) for name, value in now["Settings"].items() if name in before}
    changed = {name: values for name, values in changed.items() if values[0] != values[1]}
    version = changed.pop(_VERSION, None)
    options = [
        f"--{name} {_shown(old)} (now {_shown(new)})"
        for name, (old, new) in changed.items()
        if inputs or name not in _CHOOSE_INPUTS
    ]
    parts = [f"of AtlasGS {version[0]} (now {version[1]})"] if version else []
    parts += [f"with {', '.join(options)}"] if options else []
    return ", ".join([*parts, *inputs])


def settings_of(target: TargetPlan, config: RunConfig) -> dict[str, Any]:
    """Every option that changes a result, by its name: as it was asked for, not as the device decides."""
    core, profile = config.restoration.core, config.slice_profile_file
    return {
        "registration": config.restoration.registration,
        "prior": config.restoration.prior,
        "fast": config.restoration.fast,
        "resolution": config.restoration.resolution,
        "slice-profile": _file_setting(profile) if profile else config.restoration.slice_profile,
        "slice-thickness": config.plan.given_thickness_mm(target.entities["suffix"]),
        "combine-stacks": config.plan.combine_stacks,
        "motion": target.movement(config.restoration.motion),
        "geometry": core.geometry.mode,
        "regularization": core.appearance.regularization,
        "tolerance": core.appearance.tolerance,
        "no-uncertainty": not config.restoration.estimate_uncertainty,
        "max-iterations": core.appearance.max_iterations,
        "n-gaussians": core.scaffold.n_gaussians,
        "scaffold-steps": core.scaffold.n_steps,
        "scaffold": _file_setting(config.scaffold) if config.scaffold else None,
        "seed": core.seed,
        "anchor": config.plan.anchor,
        "anchor-session": config.plan.anchor_session,
        "derivatives": sorted(config.derivatives),
        "targets-from": config.targets_from,
        _VERSION: __version__,
    }


def _file_setting(path: Path) -> str:
    """A file by its name and content: the folder it lies in means nothing."""
    return f"{path.name} ({(content_digest(path) or 'unreadable')[:8]})"


def _fingerprints(plan: SubjectPlan, target: TargetPlan, config: RunConfig) -> list[dict[str, Any]]:
    images = [stack.source for stack in target.stacks]
    if target.series is not None and target.series.registered_by is not None:
        images.append(target.series.registered_by)
    images += [image for image in (plan.anchor, plan.brain_mask, plan.magnitude) if image is not None]
    transforms = [step.path for stack in target.stacks for step in stack.transforms]
    found = [
        {**_file_fingerprint(image.path, config), "MetadataDigest": _metadata_digest(image)}
        for image in images
    ]
    return found + [_file_fingerprint(path, config) for path in transforms]


def _file_fingerprint(path: Path, config: RunConfig) -> dict[str, Any]:
    # No time of modification: a dataset may be copied.
    size = path.stat().st_size if path.exists() else None
    return {"URI": source_uri(path, config), "Size": size, "ContentDigest": content_digest(path)}


def content_digest(path: Path) -> str | None:
    """SHA-256 of a file, or of both ends of a gz file, whose last bytes are a checksum of all its content."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            if path.suffix == ".gz":
                digest.update(file.read(_END_BYTES))
                file.seek(max(file.tell(), path.stat().st_size - _END_BYTES))
            while chunk := file.read(2**20):
                digest.update(chunk)
    except OSError:  # it was there when the run began; no result is lost for that
        return None
    return digest.hexdigest()


def _metadata_digest(image: ImageFile) -> str:
    """SHA-256 of what the files beside an image say of it, after inheritance."""
    said: dict[str, Any] = {"sidecar": image.sidecar, "context": image.asl_context}
    if image.gradients is not None:
        said |= {"b_values": image.gradients.b_values, "directions": image.gradients.directions}
    return hashlib.sha256(json.dumps(plain_json(said), sort_keys=True).encode()).hexdigest()


def _input_differences(stored: Any, now: Sequence[Mapping[str, Any]]) -> list[str]:
    if not isinstance(stored, list):
        return []
    before = {entry["URI"]: entry for entry in stored if isinstance(entry, dict) and "URI" in entry}
    current = {entry["URI"]: entry for entry in now}
    changed, described = [], []
    for uri in before.keys() & current.keys():
        if any(before[uri].get(name) != current[uri][name] for name in ("Size", "ContentDigest")):
            changed.append(_name(uri))
        elif before[uri].get("MetadataDigest") != current[uri].get("MetadataDigest"):
            described.append(_name(uri))
    added, gone = current.keys() - before.keys(), before.keys() - current.keys()
    words = {
        "from another version of": changed,
        "from another version of the metadata of": described,
        "without": map(_name, added),
        "with": map(_name, gone),
    }
    listed = {word: ", ".join(sorted(names)) for word, names in words.items()}
    return [f"{word} {names}" for word, names in listed.items() if names]


def _name(uri: str) -> str:
    return unquote(uri.rpartition("/")[2])


def _shown(value: Any) -> str:
    """A setting as a user would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value == []:
        return "not given"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
