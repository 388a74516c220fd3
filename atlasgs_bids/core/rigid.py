"""Rigid motions of a head as six numbers, and how uncertain they are."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

Parameters = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RigidFrame:
    """What six numbers mean as a motion: a shift, and a turn about the head's centre by rotation vector."""

    centre_mm: Float[Tensor, "3"]
    radius_mm: float
    """RMS distance of the head's points from its axes: a turn by 1 mm of it moves them by about 1 mm."""

    @classmethod
    def of(cls, points_mm: Float[Tensor, "n 3"]) -> "RigidFrame":
        """That of the points of a head."""
        centre = points_mm.double().mean(0)
        # About an axis, two of the three coordinates move.
        variance = float((points_mm.double() - centre).square().sum(1).mean()) * 2 / 3
        return cls(centre.cpu(), math.sqrt(max(variance, 1.0)))

    def motion(self, parameters: Parameters) -> Float[Tensor, "4 4"]:
        """p -> R (p − c) + c + t; parameters (6,): t in mm, rotation vector × radius in mm."""
        shift = torch.from_numpy(np.asarray(parameters[:3], np.float64))
        rotation = torch.linalg.matrix_exp(_skew(np.asarray(parameters[3:], np.float64) / self.radius_mm))
        motion = torch.eye(4, dtype=torch.float64)
        motion[:3, :3] = rotation
        motion[:3, 3] = self.centre_mm + shift - rotation @ self.centre_mm
        return motion


@dataclass(frozen=True)
class UncertainPosition:
    """How uncertain the position of one stack is."""

    frame: RigidFrame
    covariance: Parameters
    """(6, 6) of shift and turn in the frame, mm²."""

    @property
    def error_mm(self) -> float:
        """Standard error, mean over the head."""
        return math.sqrt(max(float(np.trace(self.covariance)), 0.0))


def _skew(vector: npt.NDArray[np.float64]) -> Float[Tensor, "3 3"]:
    x, y, z = (float(value) for value in vector)
    return torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)


def left_jacobian(rotation_vector: npt.NDArray[np.float64]) -> Float[Tensor, "3 3"]:
    """J with exp(ω + dω) = exp(J dω) exp(ω) for a small dω (Chirikjian 2012, eq. 10.86)."""
    angle = float(np.linalg.norm(rotation_vector))
    skew = _skew(rotation_vector)
    identity = torch.eye(3, dtype=torch.float64)
    if angle < 1e-6:
        return identity + 0.5 * skew
    first = (1 - math.cos(angle)) / angle**2
    second = (angle - math.sin(angle)) / angle**3
    return identity + first * skew + second * (skew @ skew)
