"""The one reading of peaks behind every table, in a process that has held little before."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MEASURED = """
import sys
import numpy as np
from atlasgs_bids.runtime.costs import measured, peak_gpu_memory_mib, peak_memory_mib

def hold(mib):
    np.ones(mib * 2**20, np.uint8)

hold(400)
before = peak_memory_mib()
with measured("cpu") as costs:
    hold(100)
print(before, costs.peak_memory, peak_memory_mib(), costs.seconds)
print(peak_gpu_memory_mib(), "torch" in sys.modules)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system keeps its peaks")
def test_a_block_has_a_peak_of_its_own_and_no_torch_is_loaded_for_it():
    code = [sys.executable, "-c", MEASURED]
    told = subprocess.run(code, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    before, of_block, after, seconds, gpu, has_torch = told.stdout.split()
    assert float(before) > 400
    assert 100 < float(of_block) < 400
    assert float(after) == pytest.approx(float(of_block), abs=20)
    assert float(seconds) > 0
    assert (gpu, has_torch) == ("None", "False")
