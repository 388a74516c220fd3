"""A simulated thousand: how time and memory of everything but the fit grow with the number of participants.

    python benchmarks/thousand.py --work DIR --out docs/measured/thousand.json

Each dataset has 100, 300 and 1,000 participants with a T1w of 24³ voxels and a FLAIR of 8 slices. **One** is
restored for real; its results, renamed, stand for everybody else's, so that what is measured is the way there
and back: names, headers, sidecars, tables, pages. Every step is the real command in a process of its own:

- plan: ``participant --dry-run`` over all, without validation
- validation: the same with it, less the time without
- finished: ``participant`` over all, of whom nobody is left to do
- worker: a worker that finds two participants left to do, which it restores for real
- status: ``atlasgs-status``
- group: ``group``, tables and ``group.html``
- pages: ``--reports-only`` for 10 participants, figures and pages for real
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

FAST = ("--device", "cpu", "--registration", "header", "--n-gaussians", "1500", "--scaffold-steps", "2",
        "--max-iterations", "10", "--regularization", "0.1", "--omp-nthreads", "1")  # fmt: skip
FIRST = "0001"
N_LEFT, N_PAGES = 2, 10
STEPS = ("plan", "validation", "finished", "worker", "status", "group", "pages")


def image(voxel_mm: Sequence[float], grey: float, path: Path, sidecar: dict[str, Any]) -> None:
    """A ball with a fluid core."""
    shape = tuple(round(72 / side) for side in voxel_mm)
    world_from_voxel = np.diag([*voxel_mm, 1.0])
    world_from_voxel[:3, 3] = -0.5 * (np.array(shape) - 1) * voxel_mm
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    radius_mm = np.linalg.norm(voxels * voxel_mm + world_from_voxel[:3, 3], axis=-1)
    data = np.where(radius_mm < 26, grey, 0.0)
    data[radius_mm < 9] = 0.2 * grey
    data += np.random.default_rng(0).normal(0, 10, shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.abs(data).astype(np.float32), world_from_voxel), path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))


def make_dataset(bids_dir: Path, n_participants: int) -> list[str]:
    """Labels of the participants, who are all the same."""
    labels = [f"{number:04}" for number in range(1, n_participants + 1)]
    bids_dir.mkdir(parents=True)
    description = {"Name": "Thousand", "BIDSVersion": "1.10.0"}
    (bids_dir / "dataset_description.json").write_text(json.dumps(description))
    (bids_dir / "README.md").write_text("# Thousand\n\nThe same made-up head, many times.\n")
    anat = bids_dir / f"sub-{FIRST}" / "anat"
    image((3.0, 3.0, 3.0), 900.0, anat / f"sub-{FIRST}_T1w.nii.gz", {"MagneticFieldStrength": 3})
    thick = {"MagneticFieldStrength": 3, "SliceThickness": 9}
    image((3.0, 3.0, 9.0), 600.0, anat / f"sub-{FIRST}_FLAIR.nii.gz", thick)
    for label in labels[1:]:
        copied_as(bids_dir / f"sub-{FIRST}", label)
    return labels


def copied_as(folder: Path, label: str) -> None:
    """A participant's files under the name of another one, who is named in them as well."""
    target_folder = folder.with_name(f"sub-{label}")
    for path in folder.rglob("*"):
        if path.is_file():
            named = str(path.relative_to(folder)).replace(f"sub-{FIRST}", f"sub-{label}")
            copied(path, target_folder / named, label)


def copied(path: Path, target: Path, label: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".json", ".tsv", ".html"):
        text = path.read_text("utf-8").replace(f"sub-{FIRST}", f"sub-{label}")
        target.write_text(text, encoding="utf-8")
    else:
        shutil.copyfile(path, target)


def make_results(bids_dir: Path, out_dir: Path, labels: Sequence[str]) -> None:
    """One participant restored for real; copies of the results, page and plan for everybody else."""
    ran("-m", "atlasgs_bids", bids_dir, out_dir, "participant", *FAST, "--participant-label", FIRST,
        "--skip-bids-validation")  # fmt: skip
    for label in labels[1:]:
        copied_as(out_dir / f"sub-{FIRST}", label)
        copied_as(out_dir / "logs" / "plan" / f"sub-{FIRST}", label)
        copied(out_dir / f"sub-{FIRST}.html", out_dir / f"sub-{label}.html", label)


def ran(*arguments: Any, expected: int = 0) -> dict[str, float]:
    """Seconds, processor seconds and peak memory (MiB, of the largest process) of a Python command."""
    command = [sys.executable, *map(str, arguments)]
    begin_s = time.perf_counter()
    log = os.open(os.devnull, os.O_WRONLY)
    actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
    _, status, usage = os.wait4(pid, 0)
    os.close(log)
    if os.waitstatus_to_exitcode(status) != expected:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    seconds = time.perf_counter() - begin_s
    cpu_s = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu_s, "peak_mib": usage.ru_maxrss / 1024}


def measured(bids_dir: Path, out_dir: Path, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    atlasgs = ("-m", "atlasgs_bids", bids_dir, out_dir)
    quick = (*FAST, "--skip-bids-validation")
    found = {"plan": ran(*atlasgs, "participant", *quick, "--dry-run")}
    found["validation"] = ran(*atlasgs, "participant", *FAST, "--dry-run")
    for name in ("seconds", "cpu_seconds"):
        found["validation"][name] -= found["plan"][name]
    found["finished"] = ran(*atlasgs, "participant", *quick)
    for label in labels[-N_LEFT:]:
        shutil.rmtree(out_dir / f"sub-{label}")
    found["worker"] = ran(*atlasgs, "participant", *quick, "--worker", "thousand")
    found["status"] = ran("-m", "atlasgs_bids.app.status", out_dir)
    found["group"] = ran(*atlasgs, "group")
    some = ("--participant-label", *labels[:N_PAGES])
    found["pages"] = ran(*atlasgs, "participant", *quick, "--reports-only", *some)
    return found


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: a row for each step, processor seconds and peak memory for each number of participants."""
    numbers = list(results)
    columns = [f"{int(n):,}: {unit}" for unit in ("s", "MiB") for n in numbers]
    lines = ["| step | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for step in STEPS:
        seconds = [f"{results[n][step]['cpu_seconds']:.1f}" for n in numbers]
        memory = [f"{results[n][step]['peak_mib']:.0f}" for n in numbers]
        lines.append("| " + " | ".join([step, *seconds, *memory]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the datasets; 5 GB at 1,000")
    parser.add_argument("--numbers", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    results = {}
    for number in asked.numbers:
        folder = asked.work / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        labels = make_dataset(folder / "bids", number)
        make_results(folder / "bids", folder / "out", labels)
        results[str(number)] = measured(folder / "bids", folder / "out", labels)
        shutil.rmtree(folder)
        sys.stdout.write(f"{number}: {json.dumps(results[str(number)])}\n")
        sys.stdout.flush()
    if asked.out:
        asked.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
