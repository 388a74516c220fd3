"""Pages of a real run: of who is done, of who failed and of who failed in part; and all of them on one."""

import json
import os
import re

import pytest

from atlasgs_bids.app.cli import main
from atlasgs_bids.runtime.files import load_tsv
from tests.bids_datasets import Dataset
from tests.runs import atlasgs
from tests.validation import validator_errors

QUICK = ("--slice-profile", "box", "--no-uncertainty")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """01 is done; 02 has no T1w; of 03 one image is damaged; 04 needs nothing. The group level has run."""
    root = tmp_path_factory.mktemp("pages")
    dataset = Dataset.create(root / "bids").add_participant("01", "FLAIR")
    dataset.add("02", "FLAIR", session="a")
    dataset.add_participant("03", "FLAIR")
    damaged = dataset.add("03", "T2w")
    damaged.write_bytes(damaged.read_bytes()[:3000])
    dataset.add("04", "T1w")
    code, _, log = atlasgs(dataset.root, root / "out", *QUICK)
    assert code == 1, log
    assert atlasgs(dataset.root, root / "out", level="group")[0] == 0
    return dataset.root, root / "out"


@pytest.fixture(scope="module")
def out_dir(results):
    return results[1]


def page(out_dir, name):
    return (out_dir / f"{name}.html").read_text(encoding="utf-8")


def test_everybody_has_a_page(out_dir):
    names = {path.name for path in out_dir.glob("*.html")}
    assert names == {"sub-01.html", "sub-02_ses-a.html", "sub-03.html", "sub-04.html", "group.html"}


def test_the_page_of_who_is_done_shows_the_result(out_dir):
    text = page(out_dir, "sub-01")
    assert "✓ Restored" in text or "! Look" in text
    assert "✕ Failed" not in text
    for key in ("FLAIR-result", "FLAIR-slices", "FLAIR-alignment", "FLAIR-metrics", "rating", "methods"):
        assert f'id="{key}"' in text


def test_the_page_of_who_failed_says_why(out_dir):
    text = page(out_dir, "sub-02_ses-a")
    assert "found no T1w image" in text
    assert "Traceback" in text
    assert "sub-02 ses-a" in text


def test_a_target_that_fails_alone_is_told_beside_the_finished_one(out_dir):
    text = page(out_dir, "sub-03")
    assert "✕ Failed" in text
    assert "sub-03 T2w" in text
    assert "sub-03_T2w.nii.gz" in text[text.index("✕ Failed") :]
    assert 'id="FLAIR-result"' in text


def test_who_needs_nothing_is_told_so(out_dir):
    assert "nothing to restore" in page(out_dir, "sub-04")


def test_the_dataset_is_valid_with_its_pages(out_dir):
    assert validator_errors(out_dir) == []


def test_the_group_page_leads_to_the_right_pages(out_dir):
    text = page(out_dir, "group")
    links = set(re.findall(r'<a href="(sub-[^"]+)">', text))
    assert links == {"sub-01.html#FLAIR", "sub-03.html#FLAIR", "sub-02_ses-a.html", "sub-04.html"}
    for link in links:
        name, _, key = link.partition("#")
        assert not key or f'id="{key}"' in (out_dir / name).read_text("utf-8")
    assert text.count("data:image/jpeg;base64,") == 2


def test_a_rating_beside_a_page_is_shown_to_the_group(results):
    bids_dir, out_dir = results
    rating = out_dir / "sub-01_rating.json"
    rating.write_text(json.dumps({"targets": {"FLAIR": {"rating": "doubtful"}}}))
    assert atlasgs(bids_dir, out_dir, level="group")[0] == 0
    assert '<span class="rated">doubtful</span>' in page(out_dir, "group")
    assert validator_errors(out_dir) == []
    rating.write_text("[")
    assert atlasgs(bids_dir, out_dir, level="group")[0] == 0
    rating.unlink()


def test_the_settings_of_a_page_make_the_results_again(out_dir, tmp_path):
    """The TOML is one that --config-file takes, with the options of the run."""
    text = page(out_dir, "sub-01")
    stated = re.search(r'<pre tabindex="0" id="settings">(.*?)</pre>', text, re.DOTALL)[1].replace(
        "&#34;", '"'
    )
    (tmp_path / "sub-01.toml").write_text(stated)
    (tmp_path / "bids").mkdir()
    with main.make_context(
        "atlasgs",
        [
            str(tmp_path / "bids"),
            str(tmp_path / "out"),
            "participant",
            "--config-file",
            str(tmp_path / "sub-01.toml"),
        ],
    ) as ctx:
        values = ctx.params
    assert (values["slice_profile"], values["registration"]) == ("box", "header")
    assert (values["n_gaussians"], values["regularization"], values["no_uncertainty"]) == (1500, 0.1, True)


def test_methods_of_the_dataset_are_beside_the_logs(out_dir):
    texts = {path.suffix: path.read_text("utf-8") for path in (out_dir / "logs").glob("CITATION.*")}
    assert set(texts) == {".md", ".html", ".tex", ".bib"}
    assert "2 images in thick slices (2 FLAIR) were restored" in texts[".md"]


def test_reports_only_makes_pages_again_from_what_is_there(results):
    bids_dir, out_dir = results
    before = page(out_dir, "sub-01")
    for path in [*out_dir.glob("*.html"), *out_dir.glob("sub-*/figures/*thumbnail*")]:
        path.unlink()
    code, _, _ = atlasgs(bids_dir, out_dir, "--reports-only", "--no-viewer")
    assert code == 1, "02 and 03 still fail"
    again = page(out_dir, "sub-01")
    assert 'id="niivue"' in before
    assert 'id="niivue"' not in again

    def results_of(text):
        return re.findall(r'id="(FLAIR-result-[\w-]+)">([^<]*)', text)

    assert results_of(before) == results_of(again) != []
    assert "sub-03_T2w.nii.gz" in page(out_dir, "sub-03")
    assert "found no T1w image" in page(out_dir, "sub-02_ses-a")
    assert list(out_dir.glob("sub-01/figures/*thumbnail*.jpg"))


def test_a_finished_session_without_its_page_gets_it_and_an_old_one_is_made_anew(results):
    """As a run that was killed between results and page leaves them."""
    bids_dir, out_dir = results
    path = out_dir / "sub-01.html"
    for leave in (path.unlink, lambda: os.utime(path, (0, 0))):
        leave()
        code, _, log = atlasgs(bids_dir, out_dir, "--participant-label", "01", *QUICK)
        assert code == 0, log
        assert 'id="FLAIR-result"' in page(out_dir, "sub-01")
    before = path.stat().st_mtime
    assert before > 0
    assert atlasgs(bids_dir, out_dir, "--participant-label", "01", *QUICK)[0] == 0
    assert path.stat().st_mtime == before


def test_a_page_that_cannot_be_written_fails_alone(results, tmp_path):
    bids_dir, out_dir = results
    target = out_dir / "sub-01.html"
    target.unlink(missing_ok=True)
    target.mkdir()
    code, last_line, _ = atlasgs(bids_dir, out_dir, "--participant-label", "01", "--reports-only")
    assert code == 1
    assert "sub-01 page" in last_line
    target.rmdir()
    assert load_tsv(next((out_dir / "sub-01" / "anat").glob("*desc-sr_metrics.tsv")))
