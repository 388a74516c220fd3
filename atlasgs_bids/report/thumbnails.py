"""Small pictures of results: a participant among a thousand."""

import io

from PIL import Image

from atlasgs_bids.report.contents import TargetContents
from atlasgs_bids.report.pictures import beside, plane
from atlasgs_bids.report.views import RESTORED, TargetViews

HEIGHT = 88
_QUALITY = 60


def thumbnail(target: TargetContents, views: TargetViews | None) -> bytes | None:
    """JPEG of three planes of the result; of a series, the last column of its figure; else None."""
    if views is not None:
        view = views.result
        image = view.layer(RESTORED).volume
        pictures = [plane(image, axis, view.point[axis], view.sizes_mm, HEIGHT) for axis in view.planes]
        return jpeg(Image.fromarray(beside(pictures)))
    if not target.figure.exists():
        return None
    with Image.open(target.figure) as figure:
        width, height = figure.size
        column = figure.convert("L").crop((2 * width // 3, 0, width, height))
    return jpeg(column.resize((max(1, round(column.width * 2 * HEIGHT / height)), 2 * HEIGHT)))


def jpeg(picture: Image.Image, quality: int = _QUALITY) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
