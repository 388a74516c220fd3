"""TODO."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.operators import LinearOperator


@dataclass(frozen=True)
class JointObservation:
    """Several observations below each other, a row for each slice; the slice axis is 0."""

    slices: Float[Tensor, "x y z"]
    weights: Float[Tensor, "x y z"]
    slices_from_amplitudes: LinearOperator
