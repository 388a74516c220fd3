"""The anchor that everything follows: its foreground, and the Gaussians that stand for it."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from atlasgs_bids.imaging.volume import voxel_sizes_mm
from atlasgs_bids.report.contents import PageContents
from atlasgs_bids.report.ellipses import ellipse_picture
from atlasgs_bids.report.pictures import Bytes, beside, grey_window, in_grey, plane, png_uri
from atlasgs_bids.report.section import Section, rendered
from atlasgs_bids.report.volumes import box_around, centre_of, ras

_HEIGHT = 320
_ORANGE = (255, 176, 0)

_TEMPLATE = """
<figure><img src="{{ contour }}" alt="The {{ name }} in three planes, an orange line around its foreground">
<figcaption>The {{ name }}, axial, coronal and sagittal; the line is the border of the {{ what }} that is
restored. It should follow the {{ what }} and leave nothing of it out. Right of the patient is on the
left.</figcaption>
</figure>
{% if gaussians %}
<figure><img src="{{ gaussians }}" alt="Part of an axial plane of the {{ name }}, its Gaussians outlined">
<figcaption>The scaffold: Gaussians near one axial plane, as ellipses of one standard deviation over a part
of the {{ name }}.
</figcaption></figure>
{% endif %}
<dl class="facts">
<dt>Anchor</dt><dd>{{ reason }}</dd>
{% if n_gaussians %}<dt>Gaussians</dt><dd>{{ "{:,}".format(n_gaussians) }}</dd>{% endif %}
{% if psnr %}<dt>Fidelity</dt><dd>{{ "%.1f" | format(psnr) }} dB PSNR of the {{ name }} rendered from them, in
its foreground</dd>
{% endif %}
{% if longitudinal %}<dt>Another session</dt><dd>The scaffold explains {{ explained }} of the variance of
{{ longitudinal["other_image"] }}</dd>{% endif %}
</dl>
"""


def anchor(page: PageContents) -> Section | None:
    if page.anchor is None:
        return None
    volume = page.anchor.volume
    image, affine = ras(volume.data, volume.world_from_voxel)
    inside, _ = ras(page.anchor.foreground, volume.world_from_voxel)
    sizes_mm = voxel_sizes_mm(affine)
    box = box_around(inside, sizes_mm)
    point = centre_of(inside)
    grey = in_grey(image, grey_window(image[inside]))
    start = [span.indices(n)[0] for span, n in zip(box, image.shape, strict=True)]
    within = tuple(int(p - s) for p, s in zip(point, start, strict=True))
    psnr = page.scaffold_sidecar.get("AnchorPSNR")
    n_gaussians = page.scaffold_sidecar.get("NumberOfGaussians")
    body = rendered(
        _TEMPLATE,
        contour=png_uri(_with_contour(grey[box], inside[box], within, sizes_mm)),
        gaussians=ellipse_picture(page.scaffold, grey, affine, point) if page.scaffold else None,
        what="brain" if page.anchor.is_brain else "head",
        reason=str(page.anchor_sidecar.get("Description", "")).removeprefix("The anchor: ")
        or page.anchor.name,
        name=page.anchor.name,
        n_gaussians=n_gaussians if isinstance(n_gaussians, int) else None,
        psnr=psnr if isinstance(psnr, (int, float)) else None,
        longitudinal=page.longitudinal,
        explained=page.longitudinal.get("explained_variance", "n/a"),
    )
    return Section("anchor", "Anchor", body)


def _with_contour(
    grey: Bytes, inside: npt.NDArray[np.bool_], point: tuple[int, ...], sizes_mm: npt.NDArray[np.float64]
) -> Bytes:
    """Three planes with the border of the mask, drawn in the picture's own pixels."""
    tallest_mm = max(float(grey.shape[1] * sizes_mm[1]), float(grey.shape[2] * sizes_mm[2]))
    pictures = []
    for axis in (2, 1, 0):
        up = 1 if axis == 2 else 2
        height = max(1, round(_HEIGHT * float(grey.shape[up] * sizes_mm[up]) / tallest_mm))
        picture = plane(grey, axis, point[axis], sizes_mm, height)
        mask = plane(inside.astype(np.uint8) * 255, axis, point[axis], sizes_mm, height) > 127
        border = mask ^ ndimage.binary_erosion(mask)
        coloured = np.repeat(picture[..., None], 3, axis=2)
        coloured[border] = _ORANGE
        pictures.append(coloured)
    return beside(pictures)
