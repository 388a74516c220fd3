"""A head that can be imaged anywhere: tissue maps of the MNI152 template, deformed, with a lesion."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Array = npt.NDArray[np.float32]
Affine = npt.NDArray[np.floating]

BRIGHTNESS = {
    "FLAIR": {"gm": 620.0, "wm": 470.0, "csf": 60.0, "lesion": 980.0},
    "T2w": {"gm": 590.0, "wm": 430.0, "csf": 1000.0, "lesion": 840.0},
}
"""Signal of each tissue. The T1w is the template itself (0 ... 1000) and knows nothing of the lesion."""

SERIES_BRIGHTNESS = {
    "b0": {"gm": 590.0, "wm": 430.0, "csf": 1000.0, "lesion": 800.0},
    "b1000x": {"gm": 265.0, "wm": 95.0, "csf": 50.0, "lesion": 600.0},
    "b1000y": {"gm": 265.0, "wm": 320.0, "csf": 50.0, "lesion": 600.0},
    "b1000z": {"gm": 265.0, "wm": 320.0, "csf": 50.0, "lesion": 600.0},
    "control": {"gm": 700.0, "wm": 560.0, "csf": 850.0, "lesion": 600.0},
    "perfusion": {"gm": 30.0, "wm": 10.0, "csf": 0.0, "lesion": 4.0},
}
"""Signal in the diffusion and ASL series. White matter's fibres all run from left to right."""

N_WAVES, WAVE_AMPLITUDE_MM, WAVE_LENGTHS_MM = 4, 2.0, (90.0, 150.0)
"""The deformation's steepest possible slope is 4 · 2 · 2π / 90 = 0.56 < 1, so it never folds."""


@dataclass(frozen=True)
class Lesion:
    """A soft ellipsoid with an uneven border, inside white matter."""

    centre_template_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Anatomy:
    """One subject: band-limited maps in template space, and the deformation that makes it an individual."""

    coefficients: dict[str, Array]
    """Cubic B-spline coefficients of T1w, FLAIR, T2w, the series' contrasts, brain and lesion (0 ... 1)."""
    template_voxel_from_template: Affine
    wave_vectors: npt.NDArray[np.float64]
    """(N_WAVES, 3) rad/mm."""
    wave_phases: npt.NDArray[np.float64]
    wave_displacements_mm: npt.NDArray[np.float64]
    """(N_WAVES, 3)"""

    def sample(
        self, name: str, shape: tuple[int, ...], world_from_voxel: Affine, anchor_from_world: Affine
    ) -> Array:
        """Map ``name`` at a grid's voxel centres; the grid's world is the anchor's after a rigid motion."""
        anchor_from_voxel = anchor_from_world @ world_from_voxel
        voxels = np.indices(shape, dtype=np.float64).reshape(3, -1)
        anchor_mm = anchor_from_voxel[:3, :3] @ voxels + anchor_from_voxel[:3, 3:]
        phases = self.wave_vectors @ anchor_mm + self.wave_phases[:, None]
        template_mm = anchor_mm + self.wave_displacements_mm.T @ np.sin(phases)
        to_voxel = self.template_voxel_from_template
        sampled = ndimage.map_coordinates(
            self.coefficients[name],
            to_voxel[:3, :3] @ template_mm + to_voxel[:3, 3:],
            order=3,
            mode="constant",
            prefilter=False,
            output=np.float32,
        )
        return np.maximum(sampled, 0).reshape(shape)


def make_anatomy(lesion: Lesion, detail_mm: int, seed: int) -> Anatomy:
    """Subject ``seed``, whose finest structure a grid of ``detail_mm`` voxels can show."""
    rng = np.random.default_rng(seed)
    tissues, template_from_voxel = _template(detail_mm)
    shape = tissues["t1w"].shape
    maps = {"T1w": 1000 * tissues["t1w"] * _texture(rng, shape, detail_mm), "brain": tissues["brain"]}
    maps["lesion"] = _lesion_fraction(lesion, tissues["wm"], template_from_voxel, rng)
    for contrast, signal in BRIGHTNESS.items():
        maps[contrast] = _contrast(signal, tissues, maps["lesion"], detail_mm, rng)
    series_rng = np.random.default_rng([seed, 2])
    for contrast, signal in SERIES_BRIGHTNESS.items():
        maps[contrast] = _contrast(signal, tissues, maps["lesion"], detail_mm, series_rng)
    maps["label"] = maps["control"] - maps["perfusion"]

    directions = rng.normal(size=(2, N_WAVES, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    wave_lengths_mm = rng.uniform(*WAVE_LENGTHS_MM, size=(N_WAVES, 1))
    return Anatomy(
        coefficients={name: ndimage.spline_filter(map_, 3, output=np.float32) for name, map_ in maps.items()},
        template_voxel_from_template=np.linalg.inv(template_from_voxel),
        wave_vectors=directions[0] * 2 * np.pi / wave_lengths_mm,
        wave_phases=rng.uniform(0, 2 * np.pi, size=N_WAVES),
        wave_displacements_mm=directions[1] * WAVE_AMPLITUDE_MM,
    )


def _contrast(
    signal: dict[str, float],
    tissues: dict[str, Array],
    lesion: Array,
    detail_mm: int,
    rng: np.random.Generator,
) -> Array:
    """Each tissue has its own texture in each contrast: no target is a function of the T1w's intensity."""
    healthy = np.zeros(lesion.shape, dtype=np.float32)
    for tissue in ("gm", "wm", "csf"):
        healthy += signal[tissue] * tissues[tissue] * _texture(rng, lesion.shape, detail_mm)
    return np.asarray(healthy + lesion * (signal["lesion"] - healthy), dtype=np.float32)


@cache
def _template(voxel_mm: int) -> tuple[dict[str, Array], Affine]:
    """The T1w (0 ... 1) and fractions of gm, wm, csf and brain, cropped; template_from_voxel (mm)."""
    from nilearn import datasets  # noqa: PLC0415 - takes seconds

    images = {
        "t1w": datasets.load_mni152_template(resolution=1),
        "gm": datasets.load_mni152_gm_template(resolution=1),
        "wm": datasets.load_mni152_wm_template(resolution=1),
        "brain": datasets.load_mni152_brain_mask(resolution=1),
    }
    brain_mask = np.asarray(images["brain"].dataobj) > 0
    margin_voxels = 8
    starts = [max(int(line.min()) - margin_voxels, 0) for line in np.nonzero(brain_mask)]
    stops = [int(line.max()) + margin_voxels + 1 for line in np.nonzero(brain_mask)]
    crop = tuple(slice(start, stop, voxel_mm) for start, stop in zip(starts, stops, strict=True))

    # Smoothed before every voxel_mm-th voxel is kept, so that nothing aliases.
    blur_mm = {name: 0.4 * np.sqrt(voxel_mm**2 - 1) for name in images} | {"brain": 0.4 * voxel_mm}
    tissues = {
        name: ndimage.gaussian_filter(np.asarray(image.dataobj, dtype=np.float32), blur_mm[name])[crop]
        for name, image in images.items()
    }
    tissues["csf"] = np.clip(tissues["brain"] - tissues["gm"] - tissues["wm"], 0, 1)
    template_from_full = images["t1w"].affine
    template_from_voxel = template_from_full @ np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    template_from_voxel[:3, 3] = template_from_full[:3, :3] @ starts + template_from_full[:3, 3]
    return tissues, template_from_voxel


def _texture(rng: np.random.Generator, shape: tuple[int, ...], voxel_mm: int) -> Array:
    """Factor around 1: 4 % of fine grain (1.5 mm) and 4 % of slow change (10 mm)."""
    factor = np.ones(shape, dtype=np.float32)
    for sigma_mm in (1.5, 10.0):
        white = rng.standard_normal(shape, dtype=np.float32)
        grain = ndimage.gaussian_filter(white, sigma_mm / voxel_mm, mode="wrap", truncate=3.0)
        factor += 0.04 * grain / grain.std()
    return factor


def _lesion_fraction(
    lesion: Lesion, wm: Array, template_from_voxel: Affine, rng: np.random.Generator
) -> Array:
    """Fraction of each voxel that is lesion."""
    voxel_mm = template_from_voxel[0, 0]
    centre_voxel = np.linalg.inv(template_from_voxel) @ [*lesion.centre_template_mm, 1]
    lines = np.ogrid[tuple(slice(0, n) for n in wm.shape)]
    radius = np.zeros(wm.shape)
    for line, centre, radius_mm in zip(lines, centre_voxel[:3], lesion.radii_mm, strict=True):
        radius = np.hypot(radius, (line - centre) * voxel_mm / radius_mm)
    uneven = ndimage.gaussian_filter(rng.standard_normal(wm.shape, dtype=np.float32), 3.0 / voxel_mm)
    border = (radius - 1 + 0.15 * uneven / uneven.std()) / 0.06
    inside = 1 / (1 + np.exp(np.clip(border, -50, 50)))
    return (inside * np.clip(1.5 * wm, 0, 1)).astype(np.float32)
