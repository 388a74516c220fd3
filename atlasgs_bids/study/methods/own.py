"""AtlasGS with Gaussians and a graph of the target alone: no T1w but for its foreground."""

from atlasgs_bids.study.methods.atlasgs import AppMethod

METHOD = AppMethod("graph", "own")
LEARNED = AppMethod("learned", "own")
"""The same with the learned prior."""
