"""The page of all participants: small enough, and its links lead to the right pages."""

import json
import re

import pytest
from PIL import Image

from atlasgs_bids.report.columns import metrics_dictionary
from atlasgs_bids.report.group_page import GroupContents, GroupImage, Missing, group_html
from tests.pages import NASTY

N = 1000


def images_of(folder, n):
    picture = folder / "thumbnail.jpg"
    Image.effect_noise((300, 88), 60).save(picture, quality=70)
    names = list(metrics_dictionary())
    return tuple(
        GroupImage(
            kind="FLAIR",
            participant=f"sub-{k:04d}",
            label="FLAIR",
            link=f"sub-{k:04d}.html#FLAIR",
            metrics={name: f"{(k * 7919 % 1009) / (column + 1):.6g}" for column, name in enumerate(names)},
            warnings=("look",) if k % 5 == 0 else (),
            rating=("good", "bad", "")[k % 3],
            thumbnail=picture,
        )
        for k in range(n)
    )


def group(images, missing=()):
    return group_html(GroupContents("0.1.0", "2026-01-01 12:00 UTC", images, missing, metrics_dictionary()))


def data_of(text):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]
    )


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    return group(
        images_of(tmp_path_factory.mktemp("group"), N), (Missing("sub-none"), Missing("sub-x", "sub-x.html"))
    )


def test_a_thousand_take_less_than_20_mb(thousand):
    assert len(thousand.encode()) < 20e6
    assert thousand.count("<figure") == N
    assert thousand.count("data:image/jpeg;base64,") == N


def test_rows_pictures_and_points_lead_to_the_same_page(thousand):
    data = data_of(thousand)
    for n in (0, 17, N - 1):
        name = f"sub-{n:04d}"
        assert data["images"][n][0] == name
        assert data["images"][n][3] == f"{name}.html#FLAIR"
        assert thousand.count(f'<a href="{name}.html#FLAIR">') == 2
    assert set(data["columns"]) == set(metrics_dictionary())
    assert data["columns"]["noise_sd"][1] == pytest.approx(7919 % 1009 / 3, rel=1e-5)


def test_who_is_missing_is_named(thousand):
    assert '<a href="sub-x.html">sub-x</a>' in thousand
    assert re.search(r"sub-none,\s+no\s+page", thousand)


def test_nothing_is_loaded(thousand):
    text = re.sub(r"<script.*?</script>", "", thousand, flags=re.DOTALL)
    sources = set(re.findall(r'(?:src|href)="([^"]*)"', text))
    assert all(re.match(r"data:|#|sub-\w+\.html", source) for source in sources)
    assert not re.search(r"url\(|@import|<link", text)


def test_whatever_a_file_says_is_text(tmp_path):
    nasty = GroupImage(NASTY, NASTY, NASTY, "", {NASTY: NASTY}, (NASTY,), NASTY, tmp_path / "none.jpg")
    text = group((nasty,), (Missing(NASTY),))
    assert NASTY not in text
    assert data_of(text)["images"][0][0] == NASTY
