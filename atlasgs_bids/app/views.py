"""Options of ``atlasgs-render`` -> views of a target -> files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atlasgs_bids.app.view_files import load_target, save_nifti, save_png, session_of, view_sidecar
from atlasgs_bids.bids.entities import parse_entities
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.header import form_code
from atlasgs_bids.imaging.nifti import open_image
from atlasgs_bids.imaging.planes import shown_as, shown_upright
from atlasgs_bids.imaging.profile import read_slice_profile
from atlasgs_bids.imaging.registration.itk_files import read_itk_transform
from atlasgs_bids.imaging.volume import Grid, voxel_sizes_mm
from atlasgs_bids.restoration.given import view_of
from atlasgs_bids.restoration.target_files import n_shared_of
from atlasgs_bids.restoration.views import Slices, TargetModel, View
from atlasgs_bids.runtime.devices import devices, resolved_device

_N_RADIAL = 12
_NO_REGION = (
    "{name}: written by an earlier version, without the mask of its result and without its error: this view "
    "shows whatever the Gaussians reach; run again with --overwrite"
)

Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """One view, and how its file says where it is."""

    view: View
    grid: Grid
    """In the world of the file: the anchor's, or that of the image whose grid it is."""
    form_code: int
    described: Mapping[str, Any]


def render_views(values: Mapping[str, Any]) -> list[str]:
    """Write what the options ask for; returns what the user has to know. Raises as its parts do."""
    path: Path = values["gaussians"]
    model = load_target(path, values["scaffold"])
    model = model.to(devices(resolved_device(values["device"]))[0])
    seen = _seen(model, values)
    n_shared = n_shared_of(path)
    shared = values["scaffold"] or (session_of(path) if n_shared else None)
    sources = [source for source in (path, shared, values["like"], values["transform"]) if source is not None]
    of_what = "the anchor" if n_shared is None else "the target"
    _write(
        values, values["out"], [model.render(own.view) for own in seen], seen, sources,
        f"View rendered from the Gaussians of {of_what}, in its intensity units",
    )  # fmt: skip
    if values["sd_out"] is not None:
        _write(
            values, values["sd_out"], [model.render_sd(own.view) for own in seen], seen, sources,
            f"Standard deviation of the error of a view rendered from the Gaussians of {of_what}; through "
            "thick planes the mean of it, which is the most that it can be",
        )  # fmt: skip
    is_old = model.region is None and n_shared is not None
    return [*([_NO_REGION.format(name=path.name)] if is_old else []), *_doubted(values)]


def _doubted(values: Mapping[str, Any]) -> list[str]:
    """Where the name of a transform says that it goes the other way."""
    if values["transform"] is None:
        return []
    name, inverted = values["transform"].name, values["invert_transform"]
    space = parse_entities(values["gaussians"]).get("space", "T1w")
    leads = parse_entities(values["transform"])
    if leads.get("to") == space and not inverted:
        return [
            f"{name}: leads to the {space} by its name, expected one from it; is --invert-transform missing?"
        ]
    if leads.get("from") == space and inverted:
        return [
            f"{name}: leads from the {space} by its name, as is expected; is --invert-transform too much?"
        ]
    return []


def _seen(model: TargetModel, values: Mapping[str, Any]) -> list[Seen]:
    if values["like"] is not None:
        return [_like(values)]
    profile = values["slice_profile"] or "box"
    named = str(profile.name) if isinstance(profile, Path) else profile
    through = read_slice_profile(profile) if isinstance(profile, Path) else profile
    slices = Slices(1, values["thickness"], values["distance"], through)
    spacing_mm, n_slices, fov_mm = values["spacing"], values["n_slices"], values["fov"]
    if values["plane"] is not None:
        point, normal = values["plane"][:3], values["plane"][3:]
        stack = replace(slices, n=n_slices or 1)
        views = [model.plane(point, normal, spacing_mm, slices=stack, up=values["up"], fov_mm=fov_mm)]
    elif values["radial"] is not None:
        point, axis = values["radial"][:3], values["radial"][3:]
        views = model.radial(point, axis, n_slices or _N_RADIAL, spacing_mm, slices=slices, fov_mm=fov_mm)
    else:
        return [Seen(view, view.grid, model.form_code, {}) for view in [model.whole(spacing_mm)]]
    thickness_mm = values["thickness"] or spacing_mm or model.finest_mm
    return [
        Seen(view, view.grid, model.form_code, _plane_fields(point, view.grid, thickness_mm, named))
        for view in views
    ]


def _plane_fields(point: Sequence[float], grid: Grid, thickness_mm: float, profile: str) -> dict[str, Any]:
    """What a sidecar says of planes; points and directions in RAS, mm."""
    sizes_mm = voxel_sizes_mm(grid.world_from_voxel)
    normal = grid.world_from_voxel[:3, 2] / sizes_mm[2]
    return {
        "PlanePoint": list(point),
        "PlaneNormal": [round(float(x), 6) for x in normal],
        "SliceThickness": thickness_mm,
        "SpacingBetweenSlices": float(sizes_mm[2]) if grid.shape[2] > 1 else None,
        "SliceProfile": profile,
    }


def _like(values: Mapping[str, Any]) -> Seen:
    """The grid of an image: in the anchor's world, or carried there."""
    grid, image = view_of(values["like"]).grid, open_image(values["like"])
    if values["transform"] is None:
        return Seen(View(grid), grid, form_code(image), {})
    # ITK's point map goes from where an image is carried to, to where it comes from.
    given = read_itk_transform(values["transform"])
    anchor_from_like = np.linalg.inv(given) if values["invert_transform"] else given
    moved = Grid(grid.shape, anchor_from_like @ grid.world_from_voxel)
    return Seen(View(moved), grid, form_code(image), {"TransformInverted": bool(values["invert_transform"])})


def _write(
    values: Mapping[str, Any],
    path: Path,
    images: Sequence[Image],
    seen: Sequence[Seen],
    sources: Sequence[Path],
    description: str,
) -> None:
    if path.name.endswith(".png"):
        window = values["window"] if path == values["out"] else None
        layout = shown_as if values["plane"] is None and values["radial"] is None else shown_upright
        save_png(path, images, [own.grid for own in seen], window, layout)
        return
    for number, (image, own) in enumerate(zip(images, seen, strict=True), start=1):
        own_path = path if len(seen) == 1 else _numbered(path, number, len(seen))
        if own_path.exists() and not values["overwrite"]:
            raise InputError(f"{own_path} exists, expected a new file; --overwrite replaces it")
        sidecar = view_sidecar(description, sources, own_path, **own.described)
        save_nifti(own_path, image, own.grid, own.form_code, sidecar)


def _numbered(path: Path, number: int, n_all: int) -> Path:
    """The name of one of several planes.

    >>> _numbered(Path("nerve.nii.gz"), 3, 12).name
    'nerve_plane-03.nii.gz'
    """
    stem, dot, extension = path.name.partition(".nii")
    return path.with_name(f"{stem}_plane-{number:0{len(str(n_all))}d}{dot}{extension}")
