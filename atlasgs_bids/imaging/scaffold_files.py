"""A scaffold as files: npz for programs, PLY for viewers of Gaussians."""

from pathlib import Path

import numpy as np
import torch

from atlasgs_bids.core.gaussians import Gaussians

_SCHEMA = "atlasgs-scaffold-1"
_ARRAYS = ("means_mm", "scales_mm", "quaternions", "amplitudes")
_SH_DEGREE_0 = 0.28209479177387814
"""Y₀₀: a viewer shows the colour 0.5 + Y₀₀ · f_dc."""
_OPACITY_LOGIT = 2.0


def save_scaffold(path: Path, gaussians: Gaussians, fingerprint: str, anchor_psnr_db: float) -> None:
    """Arrays means_mm (n, 3), scales_mm (n, 3), quaternions (n, 4; w first), amplitudes (n,); RAS, mm."""
    arrays = {name: getattr(gaussians, name).cpu().numpy() for name in _ARRAYS}
    np.savez(path, schema=_SCHEMA, fingerprint=fingerprint, anchor_psnr_db=anchor_psnr_db, **arrays)


def load_scaffold(path: Path, fingerprint: str) -> tuple[Gaussians, float] | None:
    """The scaffold and its PSNR; None where there is none made from this anchor with these settings."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["schema"]) != _SCHEMA or str(stored["fingerprint"]) != fingerprint:
                return None
            arrays = {name: torch.from_numpy(stored[name]) for name in _ARRAYS}
            return Gaussians(**arrays), float(stored["anchor_psnr_db"])
    except (OSError, ValueError, KeyError):  # written by another version, or damaged: fitted again
        return None


def save_ply(path: Path, gaussians: Gaussians) -> None:
    """PLY of common Gaussian viewers: positions in mm, the anchor's amplitudes as grey."""
    from gsplat.exporter import export_splats  # noqa: PLC0415 - takes 5 s to import

    top = float(torch.quantile(gaussians.amplitudes[:: max(1, len(gaussians) // 100_000)].cpu(), 0.99))
    grey = (gaussians.amplitudes.cpu() / max(top, 1e-6)).clamp(0, 1)
    export_splats(
        means=gaussians.means_mm.cpu(),
        scales=gaussians.scales_mm.cpu().log(),
        quats=gaussians.quaternions.cpu(),
        opacities=torch.full((len(gaussians),), _OPACITY_LOGIT),
        sh0=((grey - 0.5) / _SH_DEGREE_0)[:, None, None].expand(-1, 1, 3).contiguous(),
        shN=torch.zeros(len(gaussians), 0, 3),
        save_to=str(path),
    )
