"""Command line of ``atlasgs-render``: any view of a restored target; what does not go together is refused."""

from pathlib import Path
from typing import Any

import click

from atlasgs_bids.errors import AtlasgsError, error_text
from atlasgs_bids.runtime import options
from atlasgs_bids.runtime.environment import stand_in_for_user
from atlasgs_bids.version import __version__

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_NEW_FILE = click.Path(path_type=Path, dir_okay=False)
_KINDS = (".nii.gz", ".nii", ".png")
_VIEWS = ("like", "plane", "radial")
_MM = click.FloatRange(min=0, min_open=True)
_OF_RADIAL = ("spacing", "n_slices", "thickness", "slice_profile", "fov")
_GOES_WITH = {
    "like": ("transform", "invert_transform"),
    "plane": (*_OF_RADIAL, "distance", "up"),
    "radial": _OF_RADIAL,
    "spacing": (),
}
"""What each view can be told."""
_MORE = (*_GOES_WITH["like"], *_GOES_WITH["plane"])
_SIX = "X Y Z NX NY NZ"


def _slice_profile(ctx: click.Context, param: click.Parameter, value: str | None) -> str | Path | None:
    return None if value is None else options.slice_profile(ctx, param, value)


@click.command(
    cls=options.SpaceListCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Points and directions are in the world of the T1w: mm to the right, to anterior, to superior "
    "(RAS). Exit codes: 0 done, 1 a file cannot be used, 2 wrong usage.",
)
@click.argument("gaussians", metavar="SCAFFOLD", type=_FILE)
@click.option("--like", type=_FILE, help="The grid of this image; each voxel is the mean over it.")
@click.option(
    "--transform", type=_FILE,
    help="Linear ITK file that carries images from the T1w to the space of --like (antsApplyTransforms -t).",
)  # fmt: skip
@click.option(
    "--invert-transform", is_flag=True,
    help="The file goes the other way, as from-FLAIR_to-T1w_mode-image_xfm.txt does.",
)  # fmt: skip
@click.option("--plane", type=float, nargs=6, metavar=_SIX, help="A plane: a point in it, and its normal.")
@click.option(
    "--radial", type=float, nargs=6, metavar="X Y Z AX AY AZ",
    help="Planes about an axis: a point on it, and its direction; --slices says how many.",
)  # fmt: skip
@click.option("--spacing", type=_MM, metavar="MM", help="Pixel size; by itself: everything in such voxels.")
@click.option(
    "--slices", "n_slices", type=click.IntRange(1, 10_000),
    help="Planes in a stack, the point in their middle (default 1), or about the axis (default 12).",
)  # fmt: skip
@click.option("--thickness", type=_MM, metavar="MM", help="Of a plane; default: the pixel size.")
@click.option(
    "--slice-profile", callback=_slice_profile,
    metavar="box|gaussian|FILE", help="Sensitivity through a plane (default box).",
)  # fmt: skip
@click.option("--distance", type=_MM, metavar="MM", help="Between slice centres; default: the thickness.")
@click.option("--up", type=float, nargs=3, metavar="UX UY UZ", help="What is up in the plane.")
@click.option("--fov", type=_MM, metavar="MM", help="Side of a square around the point; default: all.")
@click.option(
    "--sd", "sd_out", type=_NEW_FILE, help="Also the standard deviation of the error, to this file."
)
@click.option("--window", type=float, nargs=2, metavar="BLACK WHITE", help="Grey values of a PNG.")
@click.option("--scaffold", type=_FILE, help="The session's npz, where the sidecar does not find it.")
@click.option(
    "--device", default="auto", show_default=True, callback=options.device, help="auto, cpu, cuda:n."
)
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("-o", "--out", type=_NEW_FILE, required=True, help="OUT.nii.gz with a sidecar, or OUT.png.")
@click.version_option(__version__, prog_name="atlasgs-render")
@click.pass_context
def main(ctx: click.Context, /, **values: Any) -> None:
    """Render any view of a restored image straight from its Gaussians, never resampled from the result.

    SCAFFOLD is sub-XX_mod-FLAIR_space-T1w_desc-atlasgs_scaffold.npz of a finished run (or the session's own,
    which shows the T1w). One of --like, --plane, --radial and --spacing says what is seen.
    """
    _check(ctx, values)
    stand_in_for_user()
    from atlasgs_bids.app.views import render_views  # noqa: PLC0415 - loads torch and nibabel

    try:
        for text in render_views(values):
            click.echo(text, err=True)
    except AtlasgsError as error:
        click.echo(f"Error: {error_text(error)}", err=True)
        ctx.exit(1)


def _check(ctx: click.Context, values: dict[str, Any]) -> None:
    """UsageError where the options do not say one thing."""
    asked = [name for name in _VIEWS if values[name] is not None]
    if len(asked) > 1:
        named = " and ".join(map(_option, asked))
        raise click.UsageError(f"found {named}, expected one of them; drop the others", ctx)
    if not asked and values["spacing"] is None:
        raise click.UsageError("found no view, expected --like, --plane, --radial or --spacing", ctx)
    (view,) = asked or ["spacing"]
    given = [name for name in _MORE if values[name] not in (None, False) and name != view]
    wrong = [name for name in given if name not in _GOES_WITH[view]]
    if values["invert_transform"] and values["transform"] is None:
        wrong = ["invert_transform"]
    if wrong:
        named = ", ".join(map(_option, wrong))
        raise click.UsageError(f"found {named} with {_option(view)}, which has no use for it; drop it", ctx)
    _check_outputs(ctx, values)


def _check_outputs(ctx: click.Context, values: dict[str, Any]) -> None:
    outs = [path for path in (values["out"], values["sd_out"]) if path is not None]
    for path in outs:
        if not path.name.endswith(_KINDS):
            raise click.UsageError(f"{path.name}: expected a name that ends in {', '.join(_KINDS)}", ctx)
        if path.exists() and not values["overwrite"]:
            raise click.UsageError(f"{path} exists, expected a new file; --overwrite replaces it", ctx)
        if not path.absolute().parent.is_dir():
            raise click.UsageError(
                f"found no folder {path.parent}, expected one for {path.name}; make it", ctx
            )
    if len(outs) == 2 and outs[0].absolute() == outs[1].absolute():
        raise click.UsageError("found one name for --out and --sd, expected two", ctx)


def _option(name: str) -> str:
    return "--" + name.removeprefix("n_").replace("_", "-")


if __name__ == "__main__":
    main(prog_name="atlasgs-render")
