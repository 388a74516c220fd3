"""The prior of docs/extend.md, taken out of the page: it keeps the contract, and restores slices."""

import re
import types
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from atlasgs_bids.core.settings import AppearanceSettings, CoreSettings
from atlasgs_bids.imaging.interpolated import mean_interpolated
from atlasgs_bids.imaging.slices import slice_geometry
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import load_anchor
from atlasgs_bids.restoration.result import rendered_result
from atlasgs_bids.restoration.scaffold import anchor_gaussians, with_graph
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import StackInput, place
from atlasgs_bids.restoration.target import fit_target
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.simulation.phantom import make_phantom
from tests.helpers import assert_adjoint, random_gaussians

PAGE = Path(__file__).parent.parent / "docs" / "extend.md"
SHAPE, FACTOR, MARGIN = (20, 20, 20), 4, 4


@pytest.fixture(scope="module")
def page_prior():
    """The class of the page's one block."""
    (block,) = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    module = types.ModuleType("alike")
    exec(compile(block, str(PAGE), "exec"), module.__dict__)
    return module.AlikePrior


def test_the_prior_of_the_page_keeps_the_contract(page_prior):
    torch.manual_seed(0)
    gaussians = random_gaussians(60, 12.0, dtype=torch.float32)
    prior = page_prior(gaussians, n_neighbours=4)
    assert_adjoint(prior)
    matrix = torch.stack([prior.forward(unit) for unit in torch.eye(60)])
    assert torch.allclose(matrix, matrix.T, atol=1e-6)
    assert torch.allclose(matrix.diagonal(), prior.diagonal, atol=1e-5)
    assert torch.allclose(prior.forward(torch.ones(60)), torch.zeros(60), atol=1e-5)
    assert torch.allclose(prior.forward(torch.eye(60)), matrix, atol=1e-6)
    draws = torch.stack([prior.square_root_noise(seed) for seed in range(4000)])
    assert torch.allclose(draws.T @ draws / len(draws), matrix, atol=0.1 * float(matrix.max()))


def test_the_prior_of_the_page_restores_slices_better_than_interpolation(page_prior, tmp_path):
    phantom = make_phantom(3, "FLAIR", SHAPE)
    t1w, truth = (np.pad(image, MARGIN) for image in (phantom.anchor, phantom.truth))
    nib.save(nib.Nifti1Image(t1w, np.eye(4)), tmp_path / "t1w.nii.gz")
    nib.save(nib.Nifti1Image((t1w > 0).astype(np.uint8), np.eye(4)), tmp_path / "mask.nii.gz")
    nx, ny, nz = truth.shape
    slices = truth.reshape(nx, ny, nz // FACTOR, FACTOR).mean(3)
    affine = np.diag([1.0, 1.0, FACTOR, 1.0])
    affine[2, 3] = (FACTOR - 1) / 2

    core = CoreSettings(appearance=AppearanceSettings(n_probes=2))
    settings = RestorationSettings("cpu", registration="header", prior="graph", core=core)
    quiet = Progress.quiet()
    anchor = load_anchor(tmp_path / "t1w.nii.gz", tmp_path / "mask.nii.gz")
    gaussians, psnr_db = anchor_gaussians(anchor, settings, quiet)
    graph = with_graph(anchor, gaussians, psnr_db, 0.0, settings, quiet)
    stack = StackInput("FLAIR", slice_geometry(slices.shape, affine, {"SliceThickness": FACTOR}))
    placed = [place(stack, Volume(slices.astype(np.float32), affine), anchor, settings, quiet)]

    scaffold = replace(graph, prior=page_prior(graph.gaussians))
    fitted = fit_target(placed, scaffold, settings, quiet)
    assert fitted.fit.appearance.objective.prior is scaffold.prior
    result = rendered_result(fitted.fit, fitted.scaffold, settings)
    inside = t1w > 0
    assert result.sd is not None
    assert (result.sd[inside] > 0).all()
    cubic = mean_interpolated([own.interpolable for own in result.stacks], result.grid)
    error, of_cubic = (float(np.square(image - truth)[inside].mean()) for image in (result.sr, cubic))
    assert error < 0.3 * of_cubic  # 0.13; the graph of the app has 0.14
