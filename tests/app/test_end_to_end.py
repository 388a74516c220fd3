"""The app as a user runs it, both levels as processes, on a coarse copy of the demo's dataset."""

import csv
import hashlib
import json
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pytest

from atlasgs_bids.imaging.registration.itk_files import read_itk_transform
from tests.runs import finished
from tests.validation import validator_errors

from compare import Comparison, compare
from make_dataset import SUBJECTS, make_dataset

VOXEL_MM, FACTOR = 4, 3
# One scan of the second, and no series: those have a test of their own, with a truth for each volume.
HEADS = (
    replace(SUBJECTS[0], series={}),
    replace(SUBJECTS[1], series={}, scans={"T2w": SUBJECTS[1].scans["T2w"]}),
)
TARGETS = [(f"sub-{subject.label}", target) for subject in HEADS for target in subject.scans]


def fingerprints(folder):
    """Content hash and modification time of every file, by its path."""
    return {
        path.relative_to(folder).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@dataclass(frozen=True)
class Run:
    root: Path
    before: dict[str, tuple[str, int]]
    participant: subprocess.CompletedProcess
    group: subprocess.CompletedProcess

    @property
    def bids_dir(self) -> Path:
        return self.root / "bids data"

    @property
    def out_dir(self) -> Path:
        return self.root / "out put"

    def path(self, stem: str, name: str) -> Path:
        return self.out_dir / stem / "anat" / f"{stem}_{name}"


def atlasgs(*arguments):
    return finished("atlasgs_bids.app.cli", *arguments, "--device", "cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("end to end")
    bids_dir, out_dir = root / "bids data", root / "out put"
    make_dataset(bids_dir, root / "truth", VOXEL_MM, FACTOR, HEADS)
    before = fingerprints(bids_dir)
    return Run(root, before, atlasgs(bids_dir, out_dir, "participant"), atlasgs(bids_dir, out_dir, "group"))


def compared(run, stem, target) -> Comparison:
    motions = json.loads((run.root / "truth" / stem / "target_from_anchor.json").read_text())
    return compare(
        stem,
        target,
        acquired=run.bids_dir / stem / "anat" / f"{stem}_{target}.nii.gz",
        result=run.path(stem, f"space-T1w_res-iso_desc-sr_{target}.nii.gz"),
        transform=run.path(stem, f"from-{target}_to-T1w_mode-image_xfm.txt"),
        truth_dir=run.root / "truth" / stem,
        true_target_from_anchor=np.array(motions[target]),
    )


def test_both_levels_end_well(run):
    assert run.participant.returncode == 0, run.participant.stderr
    assert run.group.returncode == 0, run.group.stderr
    assert run.participant.stdout.splitlines()[-1] == "2 of 2 participants done"


def test_the_output_tree_is_the_documented_one(run):
    expected = {"dataset_description.json", "README.md", "descriptions.tsv", ".bidsignore"}
    expected |= {"group.html", *(f"logs/CITATION.{ending}" for ending in ("md", "html", "tex", "bib"))}
    expected |= {f"{stem}.html" for stem, _ in TARGETS}
    expected |= {f"logs/plan/{stem}/{stem}.json" for stem, _ in TARGETS}
    for suffix in ("FLAIR", "T2w"):
        expected |= {f"group_{suffix}.tsv", f"group_{suffix}.json"}
    for stem in {stem for stem, _ in TARGETS}:
        names = ["desc-anchor_T1w.nii.gz", "desc-anchor_T1w.json"]
        names += [f"space-T1w_desc-atlasgs_scaffold.{extension}" for extension in ("npz", "ply", "json")]
        expected |= {f"{stem}/anat/{stem}_{name}" for name in names}
    for stem, target in TARGETS:
        images = [f"space-T1w_res-iso_desc-{image}_{target}" for image in ("sr", "srstd")]
        images += [f"space-T1w_res-iso_desc-{target}{mask}_mask" for mask in ("fov", "trusted")]
        images.append(f"space-T1w_res-iso_desc-{target}flags_dseg")
        images += [f"desc-simulated_{target}", f"desc-residual_{target}"]
        names = [f"{image}.{extension}" for image in images for extension in ("nii.gz", "json")]
        names.append(f"space-T1w_res-iso_desc-{target}flags_dseg.tsv")
        names += [
            f"mod-{target}_space-T1w_desc-atlasgs_scaffold.{extension}" for extension in ("npz", "json")
        ]
        names += [f"from-{target}_to-T1w_mode-image_xfm.{extension}" for extension in ("txt", "json")]
        names += [
            f"mod-{target}_space-T1w_res-iso_desc-sr_metrics.{extension}" for extension in ("tsv", "json")
        ]
        expected |= {f"{stem}/anat/{stem}_{name}" for name in names}
        figures = f"{stem}/figures/{stem}_space-T1w_res-iso_desc-"
        expected |= {f"{figures}{kind}_{target}.png" for kind in ("sr", "calibration")}
        expected.add(f"{figures}thumbnail_{target}.jpg")
    assert set(fingerprints(run.out_dir)) == expected


def test_output_passes_the_bids_validator(run):
    assert validator_errors(run.out_dir) == []


def test_dataset_is_only_read(run):
    assert fingerprints(run.bids_dir) == run.before


@pytest.mark.parametrize(("stem", "target"), TARGETS)
def test_result_beats_cubic_interpolation(run, stem, target):
    comparison = compared(run, stem, target)
    assert comparison.atlasgs.psnr_db > comparison.cubic.psnr_db + 1.0
    assert comparison.atlasgs.ssim > comparison.cubic.ssim


@pytest.mark.parametrize(("stem", "target"), TARGETS)
def test_registration_finds_the_movement(run, stem, target):
    assert compared(run, stem, target).registration_error_mm < VOXEL_MM / 2


@pytest.mark.parametrize(("stem", "target"), TARGETS)
def test_result_is_float_on_the_anchors_grid_in_the_targets_units(run, stem, target):
    result = nib.load(run.path(stem, f"space-T1w_res-iso_desc-sr_{target}.nii.gz"))
    anchor = nib.load(run.bids_dir / stem / "anat" / f"{stem}_T1w.nii.gz")
    acquired = nib.load(run.bids_dir / stem / "anat" / f"{stem}_{target}.nii.gz").get_fdata()
    assert result.get_data_dtype() == np.float32
    assert result.shape == anchor.shape
    np.testing.assert_allclose(result.affine, anchor.affine, atol=1e-4)
    assert int(result.header["sform_code"]) > 0
    assert int(result.header["qform_code"]) > 0
    tissue_in_result = np.median(result.get_fdata()[result.get_fdata() > 200])
    assert tissue_in_result == pytest.approx(np.median(acquired[acquired > 200]), rel=0.1)


@pytest.mark.parametrize(("stem", "target"), TARGETS)
def test_simulated_and_residual_add_up_to_the_acquired_slices(run, stem, target):
    acquired = nib.load(run.bids_dir / stem / "anat" / f"{stem}_{target}.nii.gz")
    simulated, residual = (
        nib.load(run.path(stem, f"desc-{name}_{target}.nii.gz")) for name in ("simulated", "residual")
    )
    np.testing.assert_allclose(simulated.affine, acquired.affine, atol=1e-4)
    explained = residual.get_fdata() != 0
    assert explained.mean() > 0.1
    np.testing.assert_allclose(
        (simulated.get_fdata() + residual.get_fdata())[explained], acquired.get_fdata()[explained], atol=0.01
    )


def test_every_source_that_a_sidecar_names_exists(run):
    roots = {"": run.out_dir, "raw": run.bids_dir}
    sources = [
        source
        for sidecar in run.out_dir.rglob("sub-*.json")
        for source in json.loads(sidecar.read_text()).get("Sources", [])
    ]
    assert sources
    for source in sources:
        dataset, path = re.fullmatch(r"bids:(\w*):(.+)", source).groups()
        assert (roots[dataset] / unquote(path)).is_file(), source


def test_transform_is_rigid_and_in_itk_convention(run):
    """The file's point map goes from the T1w to the target in LPS; read back it is in RAS."""
    path = run.path("sub-01", "from-FLAIR_to-T1w_mode-image_xfm.txt")
    assert path.read_text().startswith("#Insight Transform File V1.0")
    motion = read_itk_transform(path)
    np.testing.assert_allclose(motion[:3, :3] @ motion[:3, :3].T, np.eye(3), atol=1e-6)


@pytest.mark.parametrize("suffix", ["FLAIR", "T2w"])
def test_group_table_has_a_row_for_each_target_and_explains_its_columns(run, suffix):
    with (run.out_dir / f"group_{suffix}.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["participant_id"] for row in rows] == [stem for stem, own in TARGETS if own == suffix]
    dictionary = json.loads((run.out_dir / f"group_{suffix}.json").read_text())
    assert set(rows[0]) <= set(dictionary)


def test_a_second_run_leaves_what_is_finished(run):
    before = {
        path: fingerprint
        for path, fingerprint in fingerprints(run.out_dir).items()
        if path.startswith("sub-")
    }
    again = atlasgs(run.bids_dir, run.out_dir, "participant")
    assert again.returncode == 0, again.stderr
    after = fingerprints(run.out_dir)
    assert {path: after[path] for path in before} == before
    assert "finished by an earlier run" in again.stderr


@pytest.mark.parametrize(("stem", "target"), TARGETS)
def test_the_metrics_have_the_columns_that_their_dictionary_explains(run, stem, target):
    table = run.path(stem, f"mod-{target}_space-T1w_res-iso_desc-sr_metrics.tsv")
    with table.open(encoding="utf-8") as lines:
        columns = next(csv.reader(lines, delimiter="\t"))
    dictionary = json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))
    assert set(columns) == set(dictionary)
