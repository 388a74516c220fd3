"""The geometry switch from images to a rendered result: two stacks of one contrast, the second brighter."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.scaffold import session_anchor, session_scaffold
from atlasgs_bids.app.stacks import stack_input
from atlasgs_bids.bids.inputs.discover import discover_participant
from atlasgs_bids.bids.plan.session import plan_subject
from atlasgs_bids.core.geometry import _misfit
from atlasgs_bids.core.settings import AppearanceSettings, CoreSettings, GeometrySettings
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.restoration.result import rendered_result
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import place
from atlasgs_bids.restoration.target import _terms, fit_target
from atlasgs_bids.runtime.progress import Progress
from tests.bids_datasets import THICK_MM, Dataset, head

GAIN = 1.5


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Settings, scaffold and placed stacks of a participant."""
    root = tmp_path_factory.mktemp("geometry")
    dataset = Dataset.create(root / "bids").add_participant("01", "T2w")
    dataset.path("01", "T2w").unlink()
    dataset.add("01", "T2w", entities="acq-axial")
    coronal_mm = (THICK_MM[0], THICK_MM[2], THICK_MM[1])
    data, _ = head("T2w", coronal_mm, seed=1)
    dataset.add("01", "T2w", entities="acq-coronal", voxel_mm=coronal_mm, data=np.float32(GAIN) * data)
    config = RunConfig(
        bids_dir=dataset.root,
        out_dir=root / "out",
        analysis_level="participant",
        restoration=RestorationSettings("cpu", registration="header"),
    )
    (inputs,) = discover_participant(dataset.root, "01")
    plan = plan_subject(inputs, config.plan, config.naming)
    scaffold = session_scaffold(plan, session_anchor(plan), config, Progress.quiet())
    (target,) = plan.targets
    placed = [
        place(
            stack_input(stack, config.restoration), load_volume(stack.source.path), scaffold.anchor,
            config.restoration, Progress.quiet(),
        )
        for stack in target.stacks
    ]  # fmt: skip
    assert len(placed) == 2
    return config.restoration, scaffold, placed


@pytest.fixture(scope="module")
def fitted(session):
    """Settings and fit of a mode and λ, each made once."""
    settings, scaffold, placed = session

    @functools.cache
    def fit(mode, regularization=None):
        appearance = AppearanceSettings(regularization=regularization)
        core = CoreSettings(geometry=GeometrySettings(mode=mode), appearance=appearance)
        own = replace(settings, core=core)
        return own, fit_target(placed, scaffold, own, Progress.quiet())

    return fit


def image(settings, fit):
    return rendered_result(fit.fit, fit.scaffold, settings).sr


def test_frozen_is_the_sessions_scaffold_and_the_terms_are_what_was_fitted(session, fitted):
    _, fit = fitted("frozen")
    assert fit.scaffold is session[1]
    assert fit.fit.stacks[1].gain == pytest.approx(GAIN, rel=0.05)
    amplitudes = fit.fit.appearance.amplitudes
    (joint,) = fit.fit.appearance.objective.terms
    error = joint.slices_from_amplitudes.forward(amplitudes) - joint.slices
    expected = float((joint.weights * error**2).sum())
    terms = _terms(fit)
    assert len(terms) == 2
    measured = float(_misfit(terms, fit.scaffold.gaussians, amplitudes, 2**20))
    assert measured == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("mode", "least_correlation"), [("offset", 0.99), ("own", 0.8)])
def test_other_gaussians_give_much_the_same_image(session, fitted, mode, least_correlation):
    settings, fit = fitted(mode, 0.1)
    _, scaffold, _ = session
    # A lattice of its own has the target's amplitudes, on the same points.
    differs = "means_mm" if mode == "offset" else "amplitudes"
    own, shared = (getattr(found.gaussians, differs) for found in (fit.scaffold, scaffold))
    assert not torch.equal(own, shared)
    # A graph by the anchor has no place in a geometry without the anchor; a shared one is not made twice.
    assert (fit.scaffold.prior is scaffold.prior) == (mode != "own")
    assert fit.scaffold.anchor is scaffold.anchor
    inside = scaffold.anchor.foreground
    frozen, other = image(*fitted("frozen", 0.1))[inside], image(settings, fit)[inside]
    assert least_correlation < np.corrcoef(frozen, other)[0, 1] < 1 - 1e-6


def test_a_relaxed_geometry_chooses_no_weight_by_slices_that_it_has_seen(fitted):
    (_, first), (_, again) = fitted("frozen"), fitted("offset")
    assert again.fit.appearance.regularization == CoreSettings().geometry.regularization
    assert first.fit.appearance.regularization != again.fit.appearance.regularization
