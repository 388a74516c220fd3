"""AtlasGS with the learned prior: the T1w's Gaussians as they are."""

from atlasgs_bids.study.methods.atlasgs import AppMethod

METHOD = AppMethod("learned", "frozen")
