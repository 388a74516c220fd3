"""AtlasGS with Gaussians that start from the T1w's and are then free."""

from atlasgs_bids.study.methods.atlasgs import AppMethod

METHOD = AppMethod("graph", "joint")
LEARNED = AppMethod("learned", "joint")
"""The same with the learned prior."""
