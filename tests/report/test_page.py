"""The page of a session: everything in one file that loads nothing, whatever the files say."""

import base64
import gzip
import html
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from atlasgs_bids.report import page as page_module
from atlasgs_bids.report.contents import Failure, PlanRow
from atlasgs_bids.report.page import drawn_page
from tests.pages import NASTY, page_contents, target_contents

SECTIONS = ("warnings", "result", "slices", "alignment", "calibration", "trust", "viewer", "metrics")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return drawn_page(page_contents(folder, target_contents(folder), target_contents(folder, "acq-x_T2w")))


def volumes_of(text):
    """The images inside a page, by key."""
    found = re.findall(r'<script type="text/plain" id="([\w-]+)">([^<]*)</script>', text)
    return {key: gzip.decompress(base64.b64decode(data)) for key, data in found}


def without_scripts(text):
    return re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


def test_every_section_of_every_target_is_there(drawn):
    for target in ("FLAIR", "acq-x-T2w"):
        for section in SECTIONS:
            assert f'id="{target}-{section}"' in drawn.html
    for section in ("summary", "anchor", "rating", "methods", "about"):
        assert f'<section id="{section}">' in drawn.html
    assert 'id="errors"' not in drawn.html


def test_the_navigation_leads_to_what_is_there(drawn):
    ids = set(re.findall(r'\bid="([^"]+)"', drawn.html))
    assert set(re.findall(r'href="#([^"]+)"', drawn.html)) <= ids
    assert len(ids) == len(re.findall(r'\bid="([^"]+)"', without_scripts(drawn.html)))


def test_nothing_is_loaded_from_anywhere(drawn):
    text = without_scripts(drawn.html)
    sources = re.findall(r'(?:src|href|action|data|poster)\s*=\s*"([^"]*)"', text)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"url\(|@import|<link|<iframe|<object", text)
    assert "default-src &#39;none&#39;" in text


def test_every_picture_is_described(drawn):
    pictures = re.findall(r"<img [^>]*>", drawn.html)
    assert len(pictures) >= 10
    assert all(re.search(r'alt="[^"]{10,}"', picture) for picture in pictures)


def test_without_scripts_the_pictures_are_there(drawn):
    for view in re.findall(r'<figure class="view".*?</figure>', drawn.html, re.DOTALL):
        assert '<img src="data:image/png;base64,' in view


def test_volumes_are_images_in_ras_that_lie_on_each_other(drawn):
    volumes = {key: data for key, data in volumes_of(drawn.html).items() if key != "niivue"}
    restored = nib.Nifti1Image.from_bytes(volumes["FLAIR-result-restored"])
    t1w = nib.Nifti1Image.from_bytes(volumes["FLAIR-result-t1w"])
    assert restored.get_data_dtype() == np.uint8
    assert nib.aff2axcodes(restored.affine) == ("R", "A", "S")
    np.testing.assert_array_equal(restored.affine, t1w.affine)
    assert np.corrcoef(restored.get_fdata().ravel() > 0, t1w.get_fdata().ravel() > 0)[0, 1] > 0.8


def test_a_viewer_is_left_out_where_it_is_not_wanted(drawn, tmp_path):
    assert 'id="niivue"' in drawn.html
    plain = drawn_page(page_contents(tmp_path, target_contents(tmp_path), with_viewer=False)).html
    assert 'id="niivue"' not in plain
    assert 'class="script viewer"' not in plain
    assert len(plain) < len(drawn.html) - 900_000


def test_resolution_falls_before_the_limit_breaks(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_BYTES", 60_000)
    text = drawn_page(page_contents(tmp_path, target_contents(tmp_path), with_viewer=False)).html
    found = re.findall(r'<script type="text/plain" id="([\w-]+)">([^<]*)</script>', text)
    assert 0 < sum(len(data) for _, data in found) <= 60_000


def test_a_whole_head_is_warned_of(tmp_path):
    page = page_contents(tmp_path, target_contents(tmp_path))
    assert page.anchor.is_brain
    assert "a face may be recognised" not in drawn_page(page).html
    whole = replace(page, anchor=replace(page.anchor, is_brain=False))
    assert "a face may be recognised" in drawn_page(whole).html


def test_whatever_a_file_says_is_text(tmp_path):
    target = target_contents(tmp_path, sidecar={"Warnings": [NASTY], "Prior": NASTY}, metrics={NASTY: NASTY})
    page = page_contents(
        tmp_path,
        target,
        label=NASTY,
        command=NASTY,
        settings_toml=NASTY,
        plan=(PlanRow(NASTY, NASTY, NASTY),),
        failures=(Failure(NASTY, NASTY, NASTY),),
        longitudinal={"other_image": NASTY, "explained_variance": NASTY},
        anchor_sidecar={"Description": NASTY},
    )
    text = drawn_page(page).html
    assert NASTY not in text
    assert "<script>document" not in text
    assert "<img src=x" not in text
    assert html.escape(NASTY, quote=True).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in text


def test_a_failure_comes_first_with_its_crash_file(tmp_path):
    failed = replace(target_contents(tmp_path, "T2w"), finished=False)
    page = page_contents(tmp_path, failed, failures=(Failure("sub-01 T2w", "no slices", "Traceback: x < y"),))
    text = drawn_page(page).html
    assert text.index("✕ Failed") < text.index("What was found")
    assert "Traceback: x &lt; y" in text
    assert 'id="T2w-result"' not in text
    assert 'id="rating"' not in text


def test_images_that_cannot_be_read_leave_the_numbers(tmp_path):
    target = target_contents(tmp_path)
    target.result.write_bytes(target.result.read_bytes()[:200])
    text = drawn_page(page_contents(tmp_path, target)).html
    assert "The images cannot be shown here" in text
    assert "sharpness_after" in text


def test_a_place_in_the_group_is_told_where_there_is_one(tmp_path):
    group = {"sharpness_after": [0.1, 0.2, 0.3, 0.9, 0.95, 0.99]}
    text = drawn_page(page_contents(tmp_path, target_contents(tmp_path, group=group))).html
    assert "3 of 6 lower" in text


def test_what_is_trusted_is_marked(tmp_path):
    target = target_contents(tmp_path)
    text = drawn_page(page_contents(tmp_path, target)).html
    data = nib.Nifti1Image.from_bytes(volumes_of(text)["FLAIR-result-trusted"]).get_fdata()
    assert 0.05 < (data == 255).mean() < 0.95
    target.trusted.unlink()
    assert "FLAIR-result-trusted" not in drawn_page(page_contents(tmp_path, target)).html


def test_what_is_flagged_is_marked(tmp_path):
    target = target_contents(tmp_path)
    text = drawn_page(page_contents(tmp_path, target)).html
    data = nib.Nifti1Image.from_bytes(volumes_of(text)["FLAIR-result-flagged"]).get_fdata()
    assert 0.01 < (data == 255).mean() < 0.9
    assert "Slices contradict" in text
    target.flags.unlink()
    assert "FLAIR-result-flagged" not in drawn_page(page_contents(tmp_path, target)).html


def test_a_thumbnail_is_small(drawn):
    assert {path.name for path in drawn.thumbnails} == {"FLAIR_thumbnail.jpg", "acq-x_T2w_thumbnail.jpg"}
    for content in drawn.thumbnails.values():
        assert content.startswith(b"\xff\xd8")
        assert len(content) < 6000


def test_pictures_have_the_right_on_the_left(tmp_path):
    """A bright spot on the patient's right, in front."""
    target = target_contents(tmp_path)
    image = nib.load(target.result)
    data = np.zeros(image.shape, np.float32)
    data[2:-2, 2:-2, 2:-2] = 300
    data[15:20, 15:20, :] = 1000
    nib.save(nib.Nifti1Image(data, image.affine), target.result)
    page = page_contents(tmp_path, target)
    (content,) = drawn_page(page).thumbnails.values()
    (tmp_path / "thumbnail.jpg").write_bytes(content)
    picture = np.asarray(Image.open(tmp_path / "thumbnail.jpg"))
    axial = picture[:, : picture.shape[1] // 3]
    rows, columns = np.nonzero(axial > 200)
    assert rows.mean() < axial.shape[0] / 2
    assert columns.mean() < axial.shape[1] / 2
