"""AtlasGS in Nipype: an interface for images without BIDS, and a workflow of it (extra ``nipype``)."""

from atlasgs_bids.nipype.interface import AtlasGS
from atlasgs_bids.nipype.workflow import init_atlasgs_wf

__all__ = ["AtlasGS", "init_atlasgs_wf"]
