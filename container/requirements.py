"""Print the dependencies of a pyproject.toml, one a line, so that an image layer can hold them alone."""

import sys
from pathlib import Path

import tomllib

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
print("\n".join(project["dependencies"]))
