"""Build a Singularity definition with buildah where neither Singularity nor Apptainer can be installed.

usage: singularity.py FILE.def TAG BASE_IMAGE [FROM:TO:ro ...]

Runs %files, %post and %test for real, from BASE_IMAGE in place of the definition's From; %environment and
%runscript become the image's entry. What stays untested that way: the SIF format, --nv, the default binds.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

SECTIONS = {"files", "post", "environment", "runscript", "test", "labels", "help"}


def parse(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """Header fields in lower case, and the text of each section."""
    header: dict[str, str] = {}
    sections: dict[str, str] = {}
    section = None
    for line in text.splitlines(keepends=True):
        match = re.match(r"%(\w+)", line)
        if match:
            section = match[1]
            sections[section] = ""
        elif section is not None:
            sections[section] += line
        elif ":" in line and not line.startswith("#"):
            key, value = line.split(":", 1)
            header[key.strip().lower()] = value.strip()
    return header, sections


def buildah(*arguments: str) -> str:
    finished = subprocess.run(["buildah", *arguments], check=True, text=True, stdout=subprocess.PIPE)
    return finished.stdout.strip()


def statements(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def build(path: Path, tag: str, base_image: str, mounts: list[str]) -> None:
    header, sections = parse(path.read_text(encoding="utf-8"))
    unknown = set(sections) - SECTIONS
    if unknown or header.get("bootstrap") != "docker" or "from" not in header:
        raise SystemExit(f"{path}: unknown sections {sorted(unknown)}, or not Bootstrap: docker with From")
    container = buildah("from", "--pull-never", base_image)
    lent = [argument for mount in mounts for argument in ("-v", mount)]
    run = ["run", "--isolation", "chroot", "--network", "host", *lent, container, "--"]
    try:
        for line in statements(sections["files"]):
            source, target = shlex.split(line)
            buildah("copy", "-q", container, str(path.parent / source), target)
        scripts = {
            "environment": sections["environment"],
            "post": "set -e\n" + sections["post"],
            "test": "set -e\n. /.singularity.d/environment\n" + sections["test"],
            "runscript": ". /.singularity.d/environment\n" + sections["runscript"],
        }
        root = Path(buildah("mount", container))
        for name, script in scripts.items():
            file = root / ".singularity.d" / name
            file.parent.mkdir(exist_ok=True)
            file.write_text("#!/bin/sh\n" + script, encoding="utf-8")
            file.chmod(0o755)
        buildah("umount", container)
        print(buildah(*run, "/.singularity.d/post"))
        print(buildah(*run, "/.singularity.d/test"))
        for line in statements(sections["labels"]):
            key, value = line.split(None, 1)
            buildah("config", "--label", f"{key}={value}", container)
        buildah("config", "--entrypoint", '["/.singularity.d/runscript"]', container)
        buildah("config", "--cmd", "", container)
        buildah("commit", "-q", container, tag)
    finally:
        buildah("rm", container)


if __name__ == "__main__":
    build(Path(sys.argv[1]), *sys.argv[2:4], sys.argv[4:])
