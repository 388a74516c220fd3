"""The interface as a workflow with inputnode, outputnode and a text for the methods section."""

from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe

from atlasgs_bids.nipype.interface import AtlasGS
from atlasgs_bids.version import __version__

try:  # There, and nowhere else, a parent workflow gathers __desc__.
    from niworkflows.engine.workflows import LiterateWorkflow as Workflow
except ImportError:
    Workflow = pe.Workflow

_INPUTS = ("t1w", "in_files", "brain_mask", "thickness_mm")
_OUTPUTS = (
    "out_file", "out_sd", "out_fov", "out_trusted", "out_flags", "out_simulated", "out_xfm", "out_metrics",
    "warnings",
)  # fmt: skip


def init_atlasgs_wf(
    *, omp_nthreads: int = 1, mem_gb: float = 4.0, name: str = "atlasgs_wf", **settings: Any
) -> pe.Workflow:
    """A workflow that restores one target in thick slices in the space of a T1w.

    Inputs (``inputnode``) are ``t1w``, ``in_files`` (a target, or the stacks of one), ``brain_mask`` and
    ``thickness_mm``; outputs (``outputnode``) those of ``AtlasGS``. ``settings`` are its other inputs, such
    as ``device="cpu"``; a name that is none raises TraitError. ``__desc__`` says what is done.
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = _description(settings)
    inputnode = pe.Node(IdentityInterface(fields=list(_INPUTS)), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=list(_OUTPUTS)), name="outputnode")
    atlasgs = pe.Node(
        AtlasGS(num_threads=omp_nthreads, **settings), name="atlasgs", n_procs=omp_nthreads, mem_gb=mem_gb
    )
    workflow.connect([
        (inputnode, atlasgs, [(field, field) for field in _INPUTS]),
        (atlasgs, outputnode, [(field, field) for field in _OUTPUTS]),
    ])  # fmt: skip
    return workflow


def _description(settings: dict[str, Any]) -> str:
    if settings.get("registration", "rigid") != "header":
        position = "aligned with the T1w rigidly, by mutual information and the model's own evidence"
    else:
        position = "taken to lie where their headers say"
    return (
        f"Images in thick slices were restored at isotropic resolution with *AtlasGS* {__version__}. The T1w "
        "was represented by Gaussians on a lattice, whose amplitudes were fitted to the acquired slices "
        "through a model of their acquisition (position, orientation, thickness, sensitivity profile); no "
        f"slice was resampled. The slices were {position}. What they leave open was filled by a prior that "
        "follows the same participant's T1w; nothing but the participant's own scans was used.\n"
    )
