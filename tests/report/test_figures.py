import numpy as np
import pytest
from matplotlib.image import imread
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff

from atlasgs_bids.report.figures.target import TargetImages, target_figure

SHAPE = (30, 40, 24)
SIZES_MM = (2.0, 1.5, 3.0)


def head_with_a_spot():
    """An ellipsoid in RAS with a bright spot on the patient's right, in front and above; its mask."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"))
    inside = (grid**2).sum(axis=0) < 0.8
    image = np.where(inside, 100.0, 0).astype(np.float32)
    image[20:24, :, :] += 100 * inside[20:24, :, :]
    return image, inside


def draw(path, image, mask, affine, warnings=(), **changes):
    shown = TargetImages(**{"anchor": image, "acquired": image * 0.5, "result": image * 0.5, **changes})
    target_figure(path, shown, affine, title="sub-01 FLAIR", mask=mask, warnings=warnings)
    return imread(path)


def test_warnings_stand_in_a_colour_of_their_own_between_title_and_images(tmp_path):
    image, mask = head_with_a_spot()
    affine = np.diag([*SIZES_MM, 1])
    plain = draw(tmp_path / "plain.png", image, mask, affine)
    warned = draw(tmp_path / "warned.png", image, mask, affine, warnings=["look here " * 30])
    coloured = [(x[..., 0] - x[..., 2]) > 0.4 for x in (plain, warned)]
    assert not coloured[0].any()
    rows = np.argwhere(coloured[1].any(axis=1))
    assert len(rows) > 10
    added = warned.shape[0] - plain.shape[0]
    assert added > 0
    assert rows.max() < 0.65 * 150 + added
    # The images themselves are the same, further down.
    np.testing.assert_allclose(warned[-200:], plain[-200:], atol=0.05)


def test_the_figure_is_a_dark_png_of_a_readable_size(tmp_path):
    image, mask = head_with_a_spot()
    picture = draw(tmp_path / "figure.png", image, mask, np.diag([*SIZES_MM, 1]))
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert 1000 < picture.shape[1] < 2000
    assert picture[:5, :5, :3].max() < 0.1


@pytest.mark.parametrize("codes", ["LAS", "RPS", "LPI", "PSR", "AIL", "SLP"])
def test_the_picture_does_not_depend_on_the_order_of_the_voxels(tmp_path, codes):
    image, mask = head_with_a_spot()
    affine = np.diag([*SIZES_MM, 1.0])
    orientation = axcodes2ornt(tuple(codes))
    to_codes = np.empty_like(orientation)
    to_codes[orientation[:, 0].astype(int), 0] = np.arange(3)
    to_codes[orientation[:, 0].astype(int), 1] = orientation[:, 1]
    stored = [np.ascontiguousarray(apply_orientation(a, to_codes)) for a in (image, mask)]
    stored_affine = affine @ inv_ornt_aff(to_codes, SHAPE)
    expected = draw(tmp_path / "ras.png", image, mask, affine)
    picture = draw(tmp_path / "other.png", *stored, stored_affine)
    np.testing.assert_array_equal(picture, expected)


def panel(picture, row, column):
    height, width = picture.shape[0] // 3, picture.shape[1] // 3
    return picture[row * height : (row + 1) * height, column * width : (column + 1) * width, 0]


def test_the_patients_right_is_on_the_left_of_the_axial_and_coronal_planes(tmp_path):
    image, mask = head_with_a_spot()
    picture = draw(tmp_path / "figure.png", image, mask, np.diag([*SIZES_MM, 1]))
    for row in (0, 1):
        for column in range(3):
            bright = np.argwhere(panel(picture, row, column) > 0.9)[:, 1]
            assert np.median(bright) < 0.45 * picture.shape[1] / 3


@pytest.mark.parametrize(("where", "rows", "side"), [(1, (2,), 1), (2, (1, 2), 0)], ids=["face", "vertex"])
def test_the_face_is_on_the_left_and_the_vertex_on_top(tmp_path, where, rows, side):
    _, mask = head_with_a_spot()
    image = np.where(mask, 50.0, 0).astype(np.float32)
    high = [slice(None)] * 3
    high[where] = slice(int(0.65 * SHAPE[where]), int(0.8 * SHAPE[where]))
    image[tuple(high)] *= 5
    picture = draw(tmp_path / "figure.png", image, mask, np.diag([*SIZES_MM, 1]))
    for row in rows:
        shown = panel(picture, row, 1)
        dim, bright = (
            np.argwhere((shown > low) & (shown < up))[:, side].mean() for low, up in ((0.1, 0.5), (0.9, 2))
        )
        assert bright < dim


def test_acquired_and_result_share_their_window_and_the_anchor_has_its_own(tmp_path):
    image, mask = head_with_a_spot()
    affine = np.diag([*SIZES_MM, 1])
    expected = draw(tmp_path / "a.png", image, mask, affine)
    other_anchor = draw(tmp_path / "b.png", image, mask, affine, anchor=image * 1000)
    np.testing.assert_array_equal(other_anchor, expected)
    brighter_result = draw(tmp_path / "c.png", image, mask, affine, result=image * 7)
    assert (panel(brighter_result, 0, 1) > 0.3).mean() < 0.1 * (panel(expected, 0, 1) > 0.3).mean()


def test_single_outliers_do_not_darken_everything(tmp_path):
    image, mask = head_with_a_spot()
    spiked = image.copy()
    spiked[15, 20, 3] = 1e6
    expected, picture = (draw(tmp_path / "a.png", i, mask, np.diag([*SIZES_MM, 1])) for i in (image, spiked))
    assert panel(picture, 0, 1).mean() == pytest.approx(panel(expected, 0, 1).mean(), rel=0.1)


@pytest.mark.parametrize("value", [0.0, np.nan, -3.0])
def test_flat_images_and_an_empty_mask_still_give_a_figure(tmp_path, value):
    flat = np.full(SHAPE, value, dtype=np.float32)
    draw(tmp_path / "figure.png", flat, np.zeros(SHAPE, dtype=bool), np.diag([*SIZES_MM, 1]))
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_the_format_does_not_hang_on_the_name(tmp_path):
    image, mask = head_with_a_spot()
    shown = TargetImages(image, image, image)
    target_figure(tmp_path / ".figure.tmp", shown, np.eye(4), "title", mask)
    assert (tmp_path / ".figure.tmp").read_bytes().startswith(b"\x89PNG")


def test_the_standard_deviation_has_a_column_of_its_own_with_what_is_trusted_outlined(tmp_path):
    image, mask = head_with_a_spot()
    affine, sd = np.diag([*SIZES_MM, 1]), np.where(mask, 7.0, 0)
    without = draw(tmp_path / "without.png", image, mask, affine)
    plain = draw(tmp_path / "plain.png", image, mask, affine, sd=sd)
    trusted = mask.copy()
    trusted[: SHAPE[0] // 2] = False
    outlined = draw(tmp_path / "outlined.png", image, mask, affine, sd=sd, trusted=trusted)
    assert plain.shape[1] > 1.25 * without.shape[1]
    blue = [(x[..., 2] - x[..., 0]) > 0.5 for x in (plain, outlined)]
    assert not blue[0].any()
    columns = np.argwhere(blue[1].any(axis=0))
    assert len(columns) > 10
    # In the last of the four columns alone.
    assert columns.min() > 0.7 * outlined.shape[1]


def test_what_is_flagged_is_outlined_over_the_result(tmp_path):
    image, mask = head_with_a_spot()
    affine = np.diag([*SIZES_MM, 1])
    labels = np.zeros(SHAPE, np.uint8)
    labels[: SHAPE[0] // 2] = 1
    labels[SHAPE[0] // 2 :, : SHAPE[1] // 2] = 2
    none, both = (
        draw(tmp_path / f"{name}.png", image, mask, affine, flagged=own)
        for name, own in (("none", labels * 0), ("both", labels))
    )
    red, yellow = (
        [(x[..., 0] - x[..., 1] > 0.5) for x in (none, both)],
        [(x[..., 1] - x[..., 2] > 0.4) & (x[..., 0] > 0.7) for x in (none, both)],
    )
    for found in (red, yellow):
        assert not found[0].any()
        assert found[1].sum() > 100
        columns = np.argwhere(found[1].any(axis=0))
        # In the last of the three columns alone.
        assert columns.min() > 0.65 * both.shape[1]
