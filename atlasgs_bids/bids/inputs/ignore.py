"""``.bidsignore``: the files of a dataset that are no inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from atlasgs_bids.runtime.files import load_text

BIDSIGNORE = ".bidsignore"


@dataclass(frozen=True)
class Ignored:
    """What a dataset's ``.bidsignore`` excludes."""

    matches: Callable[[Path], bool]
    warning: str | None
    """What of the file could not be understood."""


def read_bidsignore(bids_dir: Path) -> Ignored:
    """The patterns in the dataset's root, as those of ``.gitignore``; a line that is none is left out."""
    try:
        lines = load_text(bids_dir / BIDSIGNORE).splitlines()
    except FileNotFoundError:
        return Ignored(lambda _: False, None)
    except OSError as error:
        warning = (
            f"{BIDSIGNORE} cannot be read ({error.strerror}), so that no file is ignored; make it readable"
        )
        return Ignored(lambda _: False, warning)
    good, bad = [], []
    for line in lines:
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError:
            bad.append(line)
        else:
            good.append(line)
    patterns = GitIgnoreSpec.from_lines(good)

    def matches(path: Path) -> bool:
        return patterns.match_file(path.relative_to(bids_dir).as_posix())

    named = ", ".join(map(repr, bad))
    return Ignored(matches, f"{BIDSIGNORE}: {named} is no pattern and left out; correct it" if bad else None)
