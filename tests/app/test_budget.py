"""--mem: the estimate against the memory that a real run takes."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from atlasgs_bids import RunConfig
from atlasgs_bids.app.budget import participant_memory_mib, peak_memory_mib, within_budget
from atlasgs_bids.bids.inputs.discover import discover_participant
from atlasgs_bids.bids.plan.session import plan_subject
from atlasgs_bids.core.memory import BYTES_PER_PAIR
from atlasgs_bids.core.settings import CoreSettings
from atlasgs_bids.restoration.settings import RestorationSettings
from tests.bids_datasets import Dataset, head
from tests.plans import plan, t1w, target
from tests.runs import FAST, atlasgs

SIDE_MM = 1.2


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """One participant whose head fills the field of view: 216 000 voxels."""
    made = Dataset.create(tmp_path_factory.mktemp("budget") / "bids")
    data, affine = head("T1w", (SIDE_MM, SIDE_MM, SIDE_MM))
    made.add("01", "T1w", data=np.maximum(data, 200), world_from_voxel=affine, voxel_mm=(SIDE_MM,) * 3)
    made.add("01", "FLAIR")
    return made


@pytest.mark.slow
def test_a_run_stays_below_the_estimate(dataset, tmp_path):
    """As many Gaussians as voxels, the default settings but for the number of steps."""
    out_dir = tmp_path / "out"
    config = RunConfig(dataset.root, out_dir, "participant", restoration=RestorationSettings("cpu"))
    plans = [
        plan_subject(inputs, config.plan, config.naming)
        for inputs in discover_participant(dataset.root, "01")
    ]
    expected_mib = participant_memory_mib(plans, config)
    options = (*FAST[:4], "--scaffold-steps", "1", "--max-iterations", "5", "--skip-bids-validation")
    n_voxels = int(np.prod(plans[0].anchor.header.shape))
    code, _, log = atlasgs(
        dataset.root, out_dir, *options, "--n-gaussians", str(n_voxels), "--resource-monitor"
    )
    assert code == 0, log
    with (out_dir / "logs" / "sub-01_resources.tsv").open(newline="") as file:
        peak_mib = max(float(row["peak_memory"]) for row in csv.DictReader(file, delimiter="\t"))
    assert peak_mib <= expected_mib <= 2.5 * peak_mib


def test_fine_pixels_need_memory_for_gaussians_of_their_own():
    core = CoreSettings()
    needs = [peak_memory_mib(plan([t1w()], [target(voxel_mm=(mm, mm, 9.0))]), core) for mm in (3.0, 2.6, 1.5)]
    assert needs[0] == needs[1] < needs[2]
    few = replace(core, appearance=replace(core.appearance, own_gaussians=0))
    assert peak_memory_mib(plan([t1w()], [target(voxel_mm=(1.5, 1.5, 9.0))]), few) == needs[0]


def test_chunks_are_a_share_of_the_memory(tmp_path):
    def chunk(memory_mib, n_procs, device="cpu"):
        config = RunConfig(
            tmp_path, tmp_path, "participant", memory_mib=memory_mib, n_procs=n_procs,
            restoration=RestorationSettings(device=device),
        )  # fmt: skip
        return within_budget(config).restoration.core.chunk_elements

    default = chunk(None, 1)
    assert chunk(2000, 2) < default
    assert chunk(2000, 2) * BYTES_PER_PAIR * 4 <= 1000 * 2**20
    assert chunk(2000, 4) < chunk(2000, 2)
    assert chunk(10**6, 1) == default
    assert chunk(2000, 2, "cuda") == default
