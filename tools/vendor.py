"""Put the libraries of others that a page carries into the package, with their licences.

    python tools/vendor.py

Needs npm. What npm delivers is compared with the hash that is pinned here. To move a pin, change version and
hash (`npm view NAME@VERSION dist.integrity`), run this, then `make test-browser`.
"""

import base64
import gzip
import hashlib
import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

VENDORED = Path(__file__).parent.parent / "atlasgs_bids" / "report" / "vendor"


@dataclass(frozen=True)
class Library:
    name: str
    version: str
    sha512: str
    """Of the archive, in base64, as npm states it."""
    files: dict[str, str]
    """File of the archive -> its name here; one that ends in .gz is compressed."""


LIBRARIES = (
    Library(
        "@niivue/niivue",
        "0.69.0",
        "YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA==",
        {"package/dist/niivue.umd.js": "niivue.umd.js.gz"},
    ),
    Library(
        "uplot",
        "1.6.32",
        "KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==",
        {
            "package/dist/uPlot.iife.min.js": "uplot.iife.min.js",
            "package/dist/uPlot.min.css": "uplot.min.css",
            "package/LICENSE": "uplot.LICENSE.txt",
        },
    ),
)
_BUNDLED_IN = "@niivue/niivue"
"""Its file holds its dependencies; its own licence is not in the archive and stands in niivue.LICENSE.txt."""


def main() -> None:
    VENDORED.mkdir(exist_ok=True)
    for library in LIBRARIES:
        with tempfile.TemporaryDirectory() as folder:
            _unpack(library, Path(folder))
            if library.name == _BUNDLED_IN:
                text = _licences_of_dependencies(library, Path(folder))
                (VENDORED / "niivue.dependencies.LICENSE.txt").write_text(text, encoding="utf-8")


def _unpack(library: Library, folder: Path) -> None:
    """The files of a library under their names here; an archive with another hash is an error."""
    command = ["npm", "pack", "--silent", f"{library.name}@{library.version}"]
    said = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    archive = folder / said.split()[-1]
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != library.sha512:
        raise SystemExit(
            f"{archive.name} has the hash {digest}, expected {library.sha512}; nothing was changed"
        )
    with tarfile.open(archive) as opened:
        for source, name in library.files.items():
            member = opened.extractfile(source)
            assert member is not None, source
            content = member.read()
            if name.endswith(".gz"):
                content = gzip.compress(content, 9, mtime=0)
            (VENDORED / name).write_bytes(content)


def _licences_of_dependencies(library: Library, folder: Path) -> str:
    """The licences of what a bundle holds beside the library itself."""
    (folder / "package.json").write_text("{}", encoding="utf-8")
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--omit=optional", "--silent"]
    command = ["npm", "install", *options, f"{library.name}@{library.version}"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    texts = []
    for path in sorted(folder.glob("node_modules/**/package.json")):
        package = json.loads(path.read_text(encoding="utf-8"))
        licences = sorted(own for own in path.parent.iterdir() if own.name.lower().startswith("licen"))
        if package.get("name") == library.name or not licences:
            continue
        title = f"{package['name']} {package['version']} ({package['license']})"
        texts.append(f"{title}\n{'=' * len(title)}\n\n{licences[0].read_text(encoding='utf-8').strip()}\n")
    return "\n\n".join(texts)


if __name__ == "__main__":
    main()
