"""Seconds of one session and of many participants, stage by stage, beside another version of the code.

    python benchmarks/speed.py --scans DIR --device cuda [--beside OTHER] [--participants 12 --nprocs 3 4]

DIR/stroke as for real.py: every participant is that head, with FLAIR and T2w in slices of 5 mm. A session is
the whole process, from the start of Python to its page (without the viewer), run ``--repeat`` times after one
that warms the caches, in turn with the checkout OTHER; medians. Throughput is one run of all participants.
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from real import arrange_dataset, participant

HERE = Path(__file__).parents[1]


def main() -> int:
    options = parse_options()
    if not (options.scans / "stroke" / "T1.nii.gz").exists():
        print(f"skipped: {options.scans}/stroke has no T1.nii.gz; give the scans' folder with --scans")
        return 0
    bids_dir = arrange(options)
    versions = {"this": HERE, **({"beside": options.beside.absolute()} if options.beside else {})}
    found: dict[str, Any] = {"device": options.device, "cpus": len(os.sched_getaffinity(0))}
    for prior in options.priors:
        found[prior] = sessions(prior, versions, bids_dir, options)
        save(found, options)
    if options.participants > 1:
        for n_procs in options.nprocs:
            found[f"throughput-{n_procs}"] = {
                name: throughput(tree, bids_dir, n_procs, options) for name, tree in versions.items()
            }
            print(f"--nprocs {n_procs}: {found[f'throughput-{n_procs}']}", flush=True)
            save(found, options)
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Seconds of a session and of many participants.")
    parser.add_argument("--scans", type=Path, required=True, help="folder with stroke/{T1,T2,FLAIR}.nii.gz")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:n")
    parser.add_argument("--priors", nargs="*", choices=["graph", "learned"], default=["learned", "graph"])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--participants", type=int, default=1, help="for the throughput; 1: none")
    parser.add_argument("--nprocs", type=int, nargs="+", default=[4])
    parser.add_argument("--beside", type=Path, help="another checkout, run in turn")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/speed"))
    parser.add_argument("further", nargs="*", metavar="-- OPTION", help="further options of atlasgs")
    return parser.parse_args()


def arrange(options: argparse.Namespace) -> Path:
    """A dataset of ``options.participants`` copies of the head."""
    bids_dir: Path = options.out / "bids"
    shutil.rmtree(bids_dir, ignore_errors=True)
    case = argparse.Namespace(factors=[5], motions=0, targets=["FLAIR", "T2w"])
    arrange_dataset(options.scans / "stroke", bids_dir, case)
    first = f"sub-{participant(5, 0)}"
    for number in range(1, options.participants + 1):
        stem = f"sub-{number:02d}"
        for path in (bids_dir / first / "anat").iterdir():
            copy = bids_dir / stem / "anat" / path.name.replace(first, stem)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    shutil.rmtree(bids_dir / first)
    return bids_dir


def sessions(
    prior: str, versions: Mapping[str, Path], bids_dir: Path, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Median seconds and MiB of each stage of one participant, by version."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in versions}
    for turn in range(options.repeat + 1):
        for name, tree in versions.items():
            out_dir, start = options.out / f"{name}-{prior}", time.time()
            seconds = run(tree, bids_dir, out_dir, options, "--prior", prior, "--participant-label", "01")
            if turn:
                runs[name].append(
                    {"whole process": seconds, **outside(out_dir, start, seconds), **stages(out_dir)}
                )
    medians = {
        name: {stage: statistics.median(one.get(stage, 0.0) for one in of_one) for stage in of_one[-1]}
        for name, of_one in runs.items()
    }
    print(table({prior: medians}), flush=True)
    return medians


def throughput(tree: Path, bids_dir: Path, n_procs: int, options: argparse.Namespace) -> float:
    """Seconds for each participant."""
    out_dir = options.out / f"many-{n_procs}"
    n_participants: int = options.participants
    return run(tree, bids_dir, out_dir, options, "--nprocs", str(n_procs)) / n_participants


def run(tree: Path, bids_dir: Path, out_dir: Path, options: argparse.Namespace, *further: str) -> float:
    """Seconds of a process of a version of the code, into an empty folder."""
    shutil.rmtree(out_dir, ignore_errors=True)
    python_path = os.pathsep.join([str(tree), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "atlasgs_bids", str(bids_dir), str(out_dir), "participant"]
    command += ["--device", options.device, "--resource-monitor", "--no-viewer"]
    command += ["--work-dir", str(options.out / f"work-{tree.name}"), *further, *options.further]
    start = time.perf_counter()
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": python_path}, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if ended.returncode != 0:
        raise SystemExit(f"{command}\n{ended.stderr[-4000:]}")
    return seconds


def stages(out_dir: Path) -> dict[str, float]:
    """Seconds of the stages of sub-01, and its peaks of memory."""
    with (out_dir / "logs" / "sub-01_resources.tsv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    found = {row["stage"].removeprefix("sub-01").lstrip(": "): float(row["seconds"]) for row in rows}
    for column in ("peak_memory", "peak_gpu_memory"):
        values = [float(row[column]) for row in rows if row[column] != "n/a"]
        if values:
            found[f"{column}, MiB"] = max(values)
    return found


def outside(out_dir: Path, start: float, seconds: float) -> dict[str, float]:
    """Seconds of the process that started at ``start`` before its first stage and after its last."""
    with (out_dir / "logs" / "sub-01_resources.tsv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["stage"] != "all"]
    times = [datetime.fromisoformat(row["started"].replace("Z", "+00:00")).timestamp() for row in rows]
    ends = [begun + float(row["seconds"]) for begun, row in zip(times, rows, strict=True)]
    return {"before the stages": min(times) - start, "after them": start + seconds - max(ends)}


def table(found: Mapping[str, Any]) -> str:
    """Markdown: stages of each prior that was run, by version."""
    columns = {
        f"{prior}, {name}": of_one
        for prior in ("learned", "graph")
        for name, of_one in found.get(prior, {}).items()
    }
    stages = [stage for stage in max(columns.values(), key=len) if stage != "other sessions"]
    lines = ["| stage, s | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for stage in stages:
        values = [f"{of_one[stage]:.1f}" if stage in of_one else "" for of_one in columns.values()]
        lines.append(f"| {stage} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def save(found: Mapping[str, Any], options: argparse.Namespace) -> None:
    (options.out / "speed.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
