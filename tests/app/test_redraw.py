"""--reports-only: the figures of a stack, of joined stacks and of a series, from their results alone."""

import numpy as np
import pytest
from matplotlib.image import imread

from tests.acquisitions import ANATOMY_DIRECTIONS, B_VALUES
from tests.bids_datasets import THICK_MM, Dataset, head
from tests.runs import atlasgs


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Folders of a dataset and its results."""
    root = tmp_path_factory.mktemp("reports")
    dataset = Dataset.create(root / "bids").add_participant("01", "FLAIR")
    dataset.add("01", "T2w", entities="acq-axial")
    dataset.add("01", "T2w", entities="acq-sagittal", voxel_mm=(9.0, 3.0, 3.0))
    data, affine = head("T2w", THICK_MM)
    volumes = np.stack([data, 0.5 * data, 0.4 * data], axis=3)
    dataset.add_diffusion("01", volumes, affine, B_VALUES[:3], ANATOMY_DIRECTIONS[:3])
    code, last_line, log = atlasgs(dataset.root, root / "out")
    assert (code, last_line) == (0, "1 of 1 participants done"), log
    return dataset.root, root / "out"


def test_every_figure_is_drawn_again(results):
    """But that of a series' reference, which is no file, and those of positions and profiles: they stay."""
    bids_dir, out_dir = results
    figures = {path: imread(path) for path in (out_dir / "sub-01" / "figures").glob("*.png")}
    (reference,) = [path for path in figures if path.name.endswith("desc-sr_dwi.png")]
    kept = [reference, *(path for path in figures if "_desc-calibration_" in path.name)]
    assert len(figures) >= 5, "one stack, joined stacks, the reference and two kinds of volumes"
    for path in figures:
        if path not in kept:
            path.unlink()
    code, last_line, log = atlasgs(bids_dir, out_dir, "--reports-only")
    assert (code, last_line) == (0, "1 of 1 participants done"), log
    for path, before in figures.items():
        np.testing.assert_allclose(imread(path), before, atol=0.01, err_msg=path.name)
