"""One target at isotropic resolution, as an interface with traits."""

from pathlib import Path
from typing import Any

import nibabel as nib
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    OutputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from atlasgs_bids.imaging.registration.register import write_itk_transform
from atlasgs_bids.restoration.images import Result
from atlasgs_bids.restoration.restore import fit_scaffold, restore
from atlasgs_bids.restoration.settings import MOTIONS, PRIORS, REGISTRATIONS, RestorationSettings
from atlasgs_bids.runtime.environment import limit_threads
from atlasgs_bids.runtime.extensions import split_extension
from atlasgs_bids.runtime.files import save_json

_DEFAULTS = RestorationSettings()
_SETTINGS = ("device", "registration", "prior", "fast", "resolution", "motion", "estimate_uncertainty")


class _AtlasGSInputSpec(BaseInterfaceInputSpec):
    t1w = File(exists=True, mandatory=True, desc="isotropic T1w of the same head: the anchor")
    in_files = InputMultiObject(
        File(exists=True), mandatory=True, desc="the target in thick slices; several: stacks of one contrast"
    )
    brain_mask = File(exists=True, desc="where the brain is in the T1w's world; else the head is found")
    thickness_mm = traits.Range(
        low=0.0, exclude_low=True, desc="slice thickness, mm; else the slices are taken to have no gap"
    )
    device = traits.Str(_DEFAULTS.device, usedefault=True, desc="auto, cpu, cuda or cuda:n")
    registration = traits.Enum(_DEFAULTS.registration, *REGISTRATIONS, usedefault=True)
    prior = traits.Enum(_DEFAULTS.prior, *PRIORS, usedefault=True)
    fast = traits.Bool(_DEFAULTS.fast, usedefault=True, desc="a smaller network for the learned prior")
    resolution = traits.Either(
        traits.Enum("iso", "anchor", "native"),
        traits.Range(low=0.05, high=20.0),
        default=_DEFAULTS.resolution,
        usedefault=True,
        desc="output voxels: as --resolution",
    )
    motion = traits.Enum(_DEFAULTS.motion, *MOTIONS, usedefault=True, desc="slice: corrected between slices")
    estimate_uncertainty = traits.Bool(_DEFAULTS.estimate_uncertainty, usedefault=True)
    num_threads = traits.Int(nohash=True, desc="threads of this process")


class _AtlasGSOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="restored image in the T1w's world")
    out_sd = File(desc="standard deviation of its error; undefined where it was not asked for")
    out_fov = File(exists=True, desc="mask: where the slices cover it")
    out_trusted = File(desc="mask: where it may be believed; undefined where nothing tells")
    out_flags = File(desc="labels: where slices contradict the T1w (1), or lie elsewhere (2)")
    out_simulated = OutputMultiObject(File(exists=True), desc="what it predicts for the slices of each stack")
    out_xfm = OutputMultiObject(
        File(exists=True), desc="ITK files that bring each stack to the T1w (antsApplyTransforms -t)"
    )
    out_metrics = File(exists=True, desc="JSON: what is measured without a truth")
    warnings = traits.List(traits.Str, desc="what whoever looks at the image has to know")


class AtlasGS(SimpleInterface):
    """A target in thick slices at isotropic resolution, guided by the T1w of the same head.

    >>> AtlasGS().inputs.registration
    'rigid'
    """

    input_spec = _AtlasGSInputSpec
    output_spec = _AtlasGSOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        given = {name: getattr(inputs, name) for name in _SETTINGS}
        if isdefined(inputs.num_threads):
            limit_threads(inputs.num_threads)
            given["n_threads"] = inputs.num_threads
        settings = RestorationSettings(**given)
        scaffold = fit_scaffold(inputs.t1w, settings, brain_mask=_or_none(inputs.brain_mask))
        thickness_mm = _or_none(inputs.thickness_mm)
        result = restore(scaffold, list(inputs.in_files), thickness_mm=thickness_mm, settings=settings)
        assert isinstance(result, Result), "one target has one result"
        stem, _ = split_extension(Path(inputs.in_files[0]).name)
        self._results.update(_saved(result, Path(runtime.cwd) / stem))
        return runtime


def _or_none(value: Any) -> Any:
    return value if isdefined(value) else None


def _saved(result: Result, stem: Path) -> dict[str, Any]:
    """Files of a result, called ``stem`` and what they are, by the name of the output."""
    images = {
        "file": result.image, "sd": result.sd, "fov": result.fov,
        "trusted": result.trusted, "flags": result.flags,
    }  # fmt: skip
    names = {"file": "sr", "sd": "srstd"}
    saved: dict[str, Any] = {"out_simulated": [], "out_xfm": [], "warnings": result.warnings}
    for kind, image in images.items():
        if image is not None:
            saved[f"out_{kind}"] = f"{stem}_{names.get(kind, kind)}.nii.gz"
            nib.save(image, saved[f"out_{kind}"])
    stacks, several = result.target.stacks, isinstance(result.simulated, tuple)
    simulated = result.simulated if isinstance(result.simulated, tuple) else (result.simulated,)
    for number, (stack, image) in enumerate(zip(stacks, simulated, strict=True), start=1):
        suffix = str(number) if several else ""
        saved["out_simulated"].append(f"{stem}_simulated{suffix}.nii.gz")
        nib.save(image, saved["out_simulated"][-1])
        saved["out_xfm"].append(f"{stem}_xfm{suffix}.txt")
        write_itk_transform(saved["out_xfm"][-1], stack.registration)
    saved["out_metrics"] = f"{stem}_metrics.json"
    save_json(result.metrics, Path(saved["out_metrics"]))
    return saved
