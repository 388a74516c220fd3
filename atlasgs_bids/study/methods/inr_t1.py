"""Implicit neural representation of the target and the T1w: one network, two contrasts."""

from atlasgs_bids.study.methods.inr import Inr

METHOD = Inr(with_anchor=True)
