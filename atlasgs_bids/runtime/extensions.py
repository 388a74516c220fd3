"""Names of files without what they end with; light, since the command line loads it."""

from pathlib import PurePath

EXTENSIONS = (".nii.gz", ".nii", ".json", ".tsv", ".txt", ".npz", ".ply", ".png", ".bval", ".bvec")


def split_extension(name: str) -> tuple[str, str]:
    """Stem and extension of a file name; ``.nii.gz`` is one extension.

    >>> split_extension("sub-01_T1w.nii.gz")
    ('sub-01_T1w', '.nii.gz')
    """
    for extension in EXTENSIONS:
        if name.endswith(extension):
            return name.removesuffix(extension), extension
    return PurePath(name).stem, PurePath(name).suffix
