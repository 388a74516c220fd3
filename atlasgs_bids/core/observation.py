"""TODO."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.operators import LinearOperator


@dataclass(frozen=True)
class JointObservation:
    """Several observations below each other, a row for each slice, slice axis 0; or one as it is."""

    slices: Float[Tensor, "n p q"]
    weights: Float[Tensor, "n p q"]
    slices_from_amplitudes: LinearOperator
