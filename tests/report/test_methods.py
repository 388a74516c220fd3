"""The methods text says what was really done, in five forms."""

import re
from dataclasses import replace

from atlasgs_bids.report.methods import Described, methods_of
from atlasgs_bids.report.references import REFERENCES

FLAIR = Described(
    "FLAIR",
    {
        "Prior": "graph", "SliceProfile": "auto", "Motion": "none", "Resolution": "1 x 1 x 1 mm (iso)",
        "Settings": {"version": "0.1.0"},
    },
    {"slice_thickness": "5", "slice_spacing": "6", "registration_method": "rigid", "profile_sd": "1.4",
     "anchor_psnr": "50", "sd_median": "3", "registration_displacement": "2.5"},
)  # fmt: skip
T2W = Described(
    "T2w",
    {"Prior": "learned", "Motion": "slice", "Resolution": "1 x 1 x 1 mm (iso)", "SliceProfile": "box",
     "Settings": {"regularization": 0.1, "version": "0.1.0"}},
    {"slice_thickness": "3", "slice_spacing": "3", "registration_method": "header", "anchor_psnr": "50"},
)  # fmt: skip


def test_what_was_done_is_said_and_what_was_not_is_not():
    text = methods_of([FLAIR], "0.1.0").plain()
    assert "1 image in thick slices (1 FLAIR) was restored" in text
    assert "5 mm thick, 6 mm from centre to centre" in text
    assert "mutual information" in text
    assert "1.4 mm found from held-out slices" in text
    assert "generalised cross-validation" in text
    assert "network" not in text
    assert "slice by slice" not in text
    assert "volume of a series" not in text


def test_volumes_that_moved_are_said():
    series = Described("dwi", {**FLAIR.sidecar, "Motion": "volume"}, FLAIR.metrics)
    assert "Each volume of a series was placed rigidly" in methods_of([series], "0.1.0").plain()


def test_a_field_of_another_pipeline_is_said():
    given = replace(FLAIR, metrics={**FLAIR.metrics, "registration_method": "derivative"})
    assert "Displacement fields" not in methods_of([given], "0.1.0").plain()
    given = replace(given, metrics={**given.metrics, "distortion_mean": "1.2"})
    text = methods_of([given], "0.1.0").plain()
    assert "by the transform of another pipeline" in text
    assert "Displacement fields of another pipeline were part of the model, signal kept." in text


def test_differences_are_counted():
    text = methods_of([FLAIR, T2W, T2W], "0.1.0").plain()
    assert "(1 FLAIR, 2 T2w)" in text
    assert "3 to 5 mm thick" in text
    assert re.search(r"by the headers alone \(2\)", text)
    assert "network" in text
    assert "slice by slice" in text


def test_a_given_weight_was_not_chosen():
    assert "Its weight was as given" in methods_of([T2W], "0.1.0").plain()


def test_every_form_cites_the_same_works():
    methods = methods_of([FLAIR], "0.1.0")
    assert set(re.findall(r"\\cite\{(\w+)\}", methods.tex())) == set(methods.cited)
    assert re.findall(r"@\w+\{(\w+),", methods.bibtex()) == methods.cited
    for key in methods.cited:
        assert REFERENCES[key].link in methods.markdown()
        assert REFERENCES[key].link in methods.html()


def test_braces_and_percent_signs_of_a_file_break_nothing():
    odd = Described("{x}%<b>", {"Prior": "{kerbl}", "Settings": {}}, {"registration_method": "{y}"})
    methods = methods_of([odd], "0.1.0")
    assert "{x}%<b>" in methods.markdown()
    assert "<b>" not in methods.html()
    assert r"\{x\}\%" in methods.tex()


def test_nothing_restored_is_said():
    assert methods_of([], "0.1.0").plain() == "No image was restored."
