"""AtlasGS with Gaussians that leave the T1w's by at most half a millimetre."""

from atlasgs_bids.study.methods.atlasgs import AppMethod

METHOD = AppMethod("graph", "offset")
LEARNED = AppMethod("learned", "offset")
"""The same with the learned prior."""
