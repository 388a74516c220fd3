"""One target in slices of one thickness: what every method is given, and what it is scored against."""

import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from atlasgs_bids.bids.entities import session_label
from atlasgs_bids.bids.images import ImageFile
from atlasgs_bids.errors import ConfigurationError
from atlasgs_bids.imaging.profile import read_slice_profile
from atlasgs_bids.imaging.slices import slice_geometry
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm
from atlasgs_bids.restoration.calibration import calibrated
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack, StackInput, covered, place
from atlasgs_bids.runtime.files import atomic
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.results.scores import Reference
from atlasgs_bids.study.settings import StudyConfig
from atlasgs_bids.study.simulation.degrade import Degradation, rigid_motion, with_rician_noise
from atlasgs_bids.study.simulation.truth import Truth

_PIXEL_OFF = 0.02
"""By which the pixels that are asked for may differ from a multiple of the voxels."""


@dataclass(frozen=True)
class Case:
    """What a method is given. The truth is not among it."""

    label: str
    scaffold: SessionScaffold
    """The app's: anchor, Gaussians, graph."""
    placed: PlacedStack
    """The simulated slices, registered to the anchor as the study asks."""
    run: RestorationSettings
    """The app's settings, slice profile and device among them."""
    study: StudyConfig
    progress: Progress
    session: str
    """Whose T1w it is: ``sub-01`` or ``sub-01 ses-1``."""
    shared_dir: Path
    """Where a method may keep what depends on the session's T1w alone."""
    scaffold_seconds: float = 0.0
    """What the scaffold took when it was fitted."""

    @property
    def grid(self) -> Grid:
        """The grid that the result is wanted on: the anchor's."""
        return self.scaffold.anchor.volume.grid

    @property
    def slice_axis(self) -> int:
        """Through the slices, of the slices' own voxel axes."""
        return self.placed.source.geometry.axis

    @property
    def wanted(self) -> npt.NDArray[np.bool_]:
        """Where the result is not 0: the anchor's support inside the slices, as in the app."""
        target_from_anchor = self.placed.registration.target_from_anchor
        inside = covered(self.placed.source, self.placed.acquired, target_from_anchor, self.grid)
        return inside & self.scaffold.anchor.support

    @property
    def floor(self) -> float | None:
        """No intensity lies below it; None: any may."""
        return 0.0 if self.placed.acquired.data.min() >= 0 else None


@dataclass(frozen=True)
class Simulation:
    """A case, and the truth behind it."""

    case: Case
    degradation: Degradation
    clean: npt.NDArray[np.float32]
    """The slices before noise."""
    reference: Reference
    target_from_anchor: npt.NDArray[np.float64]
    """Where the slices truly lie."""

    @property
    def slices_mask(self) -> npt.NDArray[np.bool_]:
        """Voxels of the slices that lie in the mask for the greater part."""
        share, _ = self.degradation.slices(self.reference.mask.astype(np.float32), np.eye(4))
        return share > 0.5


def simulate(
    image: ImageFile,
    truth: Truth,
    rois: dict[str, npt.NDArray[np.bool_]],
    factor: int,
    scaffold: SessionScaffold,
    run: RestorationSettings,
    study: StudyConfig,
    progress: Progress,
) -> Simulation:
    """The slices of one target, with noise and movement where the study has them, and its truth."""
    anchor, axis = scaffold.anchor, truth.axis
    grid = anchor.volume.grid
    sizes_mm = voxel_sizes_mm(grid.world_from_voxel)
    degradation = Degradation(study.degradation, axis, factor, _pixel(study, sizes_mm, axis))
    clean, world_from_slices = degradation.slices(truth.data, grid.world_from_voxel)
    # The same for every method, another for every participant, target and factor.
    rng = np.random.default_rng([study.seed, zlib.crc32(f"{image.path.name} x{factor}".encode())])
    mask = anchor.foreground & truth.inside
    # What trails behind the last slice and the last pixel was not seen.
    mask &= np.pad(
        np.ones(np.multiply(clean.shape, degradation.blocks), bool),
        [
            (0, n - seen * block)
            for n, seen, block in zip(grid.shape, clean.shape, degradation.blocks, strict=True)
        ],
    )
    noise_sd = study.noise_percent / 100 * float(np.percentile(truth.data[mask], 99))
    data = with_rician_noise(clean, noise_sd, rng)
    centre_mm = world_from_slices[:3, :3] @ ((np.array(clean.shape) - 1) / 2) + world_from_slices[:3, 3]
    moved = rigid_motion(study.motion_mm, study.motion_deg, centre_mm, rng)
    slices = Volume(data, moved @ world_from_slices)
    voxel_mm = float(sizes_mm[axis])
    stack = _stack(image, slices, factor * voxel_mm)
    moves = study.motion_mm > 0 or study.motion_deg > 0
    run = replace(
        run,
        slice_profile=read_slice_profile(_profile_file(degradation, voxel_mm, study)),
        registration="rigid" if moves else "header",
    )
    label = f"{image.path.name.partition('.')[0]} x{factor}"
    progress = progress.under(label)
    placed = place(stack, slices, scaffold.anchor, run, progress)
    case = Case(
        label=label,
        scaffold=scaffold,
        placed=calibrated([placed], scaffold.guides, run, progress)[0],
        run=run,
        study=study,
        progress=progress,
        session=session_label(image.entities["subject"], image.entities.get("session")),
        shared_dir=study.out_dir / "shared",
    )
    reference = Reference(
        truth=truth.data,
        anchor=anchor.volume.data,
        mask=mask,
        rois=rois,
        world_from_voxel=grid.world_from_voxel,
        axis=axis,
        factor=factor,
    )
    return Simulation(case, degradation, clean, reference, moved)


def at_defaults(case: Case) -> Case:
    """The case of whoever is told nothing: position and slice profile are found, as by the app."""
    app = RestorationSettings()
    run = replace(case.run, slice_profile=app.slice_profile, registration=app.registration)
    placed = place(case.placed.source, case.placed.acquired, case.scaffold.anchor, run, case.progress)
    return replace(case, run=run, placed=calibrated([placed], case.scaffold.guides, run, case.progress)[0])


def _pixel(study: StudyConfig, sizes_mm: npt.NDArray[np.float64], axis: int) -> int:
    """Voxels of the T1w in a pixel; ConfigurationError where that is no whole number."""
    if study.in_plane_mm is None:
        return 1
    ratios = study.in_plane_mm / np.delete(sizes_mm, axis)
    n_voxels = max(1, round(float(ratios.mean())))
    if np.abs(ratios / n_voxels - 1).max() > _PIXEL_OFF:
        sides = " x ".join(f"{side:.3g}" for side in sizes_mm)
        raise ConfigurationError(
            f"--in-plane {study.in_plane_mm:g} with a T1w of {sides} mm, expected a multiple of its voxels"
        )
    return n_voxels


def _stack(image: ImageFile, slices: Volume, thickness_mm: float) -> StackInput:
    sidecar = {"SliceThickness": thickness_mm}
    geometry = slice_geometry(slices.grid.shape, slices.world_from_voxel, sidecar)
    return StackInput(image.path.name, geometry, sidecar)


def _profile_file(degradation: Degradation, voxel_mm: float, study: StudyConfig) -> Path:
    """The simulated slice profile as the app takes it: what a scanner's sequence would be known by."""
    name = f"{degradation.kind}_x{degradation.factor}_{voxel_mm:.4g}mm.txt"
    path = study.out_dir / "shared" / "profiles" / name
    if not path.exists():
        rows = np.column_stack(degradation.profile(voxel_mm))
        with atomic(path) as temporary:
            np.savetxt(temporary, rows, fmt="%.6f", header="offset_mm weight")
    return path
