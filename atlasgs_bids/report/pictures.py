"""Arrays -> 8-bit pictures and data URIs."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Bytes = npt.NDArray[np.uint8]
_WINDOW_PERCENT = (0.5, 99.5)
_GAP, _GAP_GREY = 4, 24
_QUALITY = 60
_SMALLEST = 16


def grey_window(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Intensities of black and white: robust extremes, 0 for black where that is near."""
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, _WINDOW_PERCENT))
    if abs(low) < 0.3 * high:
        low = 0.0
    return (low, high) if high > low else (low, low + 1.0)


def in_grey(image: npt.NDArray[np.float32], window: tuple[float, float]) -> Bytes:
    """The image in 256 steps from black to white."""
    low, high = window
    scaled = np.nan_to_num(image - np.float32(low)) * np.float32(255 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def png_uri(picture: Bytes) -> str:
    """A picture (rows, columns) or (rows, columns, 3) as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=False, compress_level=6)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def file_uri(path: Path) -> str:
    """A PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def at_most(picture: bytes, n_bytes: float) -> bytes:
    """A JPEG in fewer pixels, where it has more bytes than that."""
    while len(picture) > n_bytes:
        with Image.open(io.BytesIO(picture)) as opened:
            share = min(0.8, (n_bytes / len(picture)) ** 0.5)
            width, height = (round(side * share) for side in opened.size)
            if min(width, height) < _SMALLEST:
                return picture
            picture = jpeg(opened.resize((width, height), Image.Resampling.LANCZOS))
    return picture


def plane(
    volume: npt.NDArray[np.uint8], axis: int, index: int, sizes_mm: npt.NDArray[np.float64], height: int
) -> Bytes:
    """A plane of a volume in RAS order, right and front on the left, in square pixels, ``height`` rows."""
    across, up = ((1, 2), (0, 2), (0, 1))[axis]
    rows = np.take(volume, index, axis)[::-1, ::-1].T
    width = max(1, round(height * rows.shape[1] * sizes_mm[across] / (rows.shape[0] * sizes_mm[up])))
    return np.asarray(Image.fromarray(rows).resize((width, height), Image.Resampling.BILINEAR))


def beside(pictures: Sequence[Bytes]) -> Bytes:
    """Pictures in a row, the lower ones in the middle of the tallest one's height."""
    height = max(picture.shape[0] for picture in pictures)
    padded = []
    for picture in pictures:
        above = (height - picture.shape[0]) // 2
        below = height - picture.shape[0] - above
        edges = [(above, below), (0, _GAP), *[(0, 0)] * (picture.ndim - 2)]
        padded.append(np.pad(picture, edges, constant_values=_GAP_GREY))
    return np.concatenate(padded, axis=1)[:, :-_GAP]


def below(pictures: Sequence[Bytes]) -> Bytes:
    """Pictures under one another, from the left edge."""
    width = max(picture.shape[1] for picture in pictures)
    padded = [
        np.pad(
            picture,
            [(0, _GAP), (0, width - picture.shape[1]), *[(0, 0)] * (picture.ndim - 2)],
            constant_values=_GAP_GREY,
        )
        for picture in pictures
    ]
    return np.concatenate(padded, axis=0)[:-_GAP]
