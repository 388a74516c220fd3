"""A scaffold that leaves the program and comes back, edited or not."""

from dataclasses import replace
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement
from scipy import ndimage

from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.scaffold import fit_scaffold
from atlasgs_bids.core.settings import CoreSettings
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.bias import bias_field
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.scaffold_files import (
    given_scaffold,
    load_scaffold,
    read_scaffold,
    save_ply,
    save_scaffold,
)
from atlasgs_bids.restoration.settings import RestorationSettings
from tests.bids_datasets import head

SETTINGS = RestorationSettings(device="cpu", core=CoreSettings())


@pytest.fixture(scope="module")
def anchor():
    data, affine = head("T1w")
    foreground = ndimage.binary_fill_holes(data > 100)
    support = ndimage.binary_dilation(foreground, iterations=2)
    return Anchor(Volume(data, affine), foreground, support, exterior_is_empty=True, is_brain=True)


@pytest.fixture(scope="module")
def gaussians(anchor):
    image, support = torch.from_numpy(anchor.volume.data), torch.from_numpy(anchor.support)
    fitted = fit_scaffold(image, support, torch.from_numpy(anchor.volume.world_from_voxel), SETTINGS.core)
    return fitted.gaussians


@pytest.mark.parametrize("extension", [".npz", ".ply"])
def test_files_hold_the_gaussians(tmp_path, gaussians, extension):
    path = tmp_path / f"scaffold{extension}"
    if extension == ".npz":
        save_scaffold(path, gaussians, "fingerprint", 40.0)
    else:
        save_ply(path, gaussians)
    read, has_amplitudes = read_scaffold(path)
    assert has_amplitudes == (extension == ".npz")
    for name in ("means_mm", "scales_mm", "quaternions"):
        torch.testing.assert_close(getattr(read, name), getattr(gaussians, name), rtol=1e-5, atol=1e-5)
    if has_amplitudes:
        torch.testing.assert_close(read.amplitudes, gaussians.amplitudes)


def test_a_ply_gets_its_amplitudes_back_from_the_anchor(tmp_path, anchor, gaussians):
    save_scaffold(tmp_path / "scaffold.npz", gaussians, "fingerprint", 40.0)
    save_ply(tmp_path / "scaffold.ply", gaussians)
    _, npz_psnr_db = given_scaffold(tmp_path / "scaffold.npz", anchor, SETTINGS)
    _, ply_psnr_db = given_scaffold(tmp_path / "scaffold.ply", anchor, SETTINGS)
    assert npz_psnr_db > 25
    assert ply_psnr_db > npz_psnr_db - 0.1


def test_gaussians_moved_and_deleted_in_a_viewer(tmp_path, anchor, gaussians):
    """As a viewer saves it: other columns in another order, some rows gone, others elsewhere."""
    save_ply(tmp_path / "scaffold.ply", gaussians)
    vertices = PlyData.read(tmp_path / "scaffold.ply")["vertex"].data
    kept = vertices[100:].copy()
    kept["x"][:50] += 1.5
    names = [*reversed(kept.dtype.names), "nx"]
    edited = np.zeros(len(kept), dtype=[(name, "f4") for name in names])
    for name in kept.dtype.names:
        edited[name] = kept[name]
    PlyData([PlyElement.describe(edited, "vertex")]).write(tmp_path / "edited.ply")
    read, _ = given_scaffold(tmp_path / "edited.ply", anchor, SETTINGS)
    assert len(read) == len(gaussians) - 100
    shift = torch.tensor([1.5, 0, 0])
    torch.testing.assert_close(read.means_mm[:50], gaussians.means_mm[100:150] + shift, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(read.means_mm[50:], gaussians.means_mm[150:], rtol=1e-5, atol=1e-5)


def test_a_scaffold_of_another_head_is_refused(tmp_path, anchor, gaussians):
    elsewhere = replace(gaussians, means_mm=gaussians.means_mm + 100)
    save_scaffold(tmp_path / "other.npz", elsewhere, "fingerprint", 40.0)
    with pytest.raises(InputError, match=r"other\.npz: 0% of the Gaussians lie in the anchor's foreground"):
        given_scaffold(tmp_path / "other.npz", anchor, SETTINGS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ply", b"ply\nnothing", "not readable as a scaffold"),
        ("a.npz", b"PK\x03\x04 broken", "not readable as a scaffold"),
        ("a.npz", b"no archive", "not readable as a scaffold"),
    ],
)
def test_files_that_are_no_scaffold(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_scaffold(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means_mm": torch.full((2, 3), torch.nan)}, "not finite"),
        ({"scales_mm": torch.zeros(2, 3)}, "a scale of 0 mm"),
        ({"amplitudes": torch.zeros(3)}, "arrays of shapes"),
    ],
)
def test_gaussians_that_cannot_be(tmp_path, change, message):
    two = {
        "means_mm": torch.zeros(2, 3),
        "scales_mm": torch.ones(2, 3),
        "quaternions": torch.tensor([[1.0, 0, 0, 0]] * 2),
        "amplitudes": torch.zeros(2),
    }
    arrays = {name: value.numpy() for name, value in {**two, **change}.items()}
    np.savez(tmp_path / "a.npz", schema="atlasgs-scaffold-1", **arrays)
    with pytest.raises(InputError, match=message):
        read_scaffold(tmp_path / "a.npz")
    assert len(Gaussians(**two)) == 2


def stored_again(path, change):
    """The same archive with one array, or its file, changed."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(path, **(arrays | change))


def cut_in_the_middle(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turn_bytes(path):
    """As a bad disk does, in the middle of the largest array: the archive's directory stays whole."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 8] = bytes(255 - byte for byte in content[:8])
    path.write_bytes(content)


def compressed_and_turned(path):
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez_compressed(path, **arrays)
    turn_bytes(path)


def one_array_alone(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def objects(path):
    stored_again(path, {"means_mm": np.array([{"a": 1}], dtype=object)})


def one_amplitude_fewer(path):
    with np.load(path, allow_pickle=False) as stored:
        amplitudes = stored["amplitudes"]
    stored_again(path, {"amplitudes": amplitudes[1:]})


def no_number(path):
    stored_again(path, {"anchor_psnr_db": np.zeros(2)})


DAMAGES = [
    cut_in_the_middle,
    turn_bytes,
    compressed_and_turned,
    one_array_alone,
    objects,
    one_amplitude_fewer,
]


@pytest.mark.parametrize("damage", [*DAMAGES, no_number])
def test_a_damaged_scaffold_of_the_session_counts_as_none(tmp_path, gaussians, damage):
    path = tmp_path / "scaffold.npz"
    save_scaffold(path, gaussians, "fingerprint", 40.0)
    assert load_scaffold(path, "fingerprint") is not None
    damage(path)
    assert load_scaffold(path, "fingerprint") is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_scaffold_that_is_given_is_refused(tmp_path, gaussians, damage):
    path = tmp_path / "scaffold.npz"
    save_scaffold(path, gaussians, "fingerprint", 40.0)
    damage(path)
    with pytest.raises(InputError, match=r"scaffold\.npz: not readable as a scaffold"):
        read_scaffold(path)


HUGE = {
    "many Gaussians": ("means_mm", "<f4", "(1000000000000, 3)"),
    "a long text": ("schema", "<U500000000", "()"),
    "many numbers each": ("amplitudes", "<f4", "(2, 100000000000)"),
}


@pytest.mark.parametrize(("name", "dtype", "shape"), HUGE.values(), ids=HUGE)
def test_sizes_that_cannot_be_are_refused_before_memory_is_taken(tmp_path, gaussians, name, dtype, shape):
    path = tmp_path / "scaffold.npz"
    save_scaffold(path, gaussians, "fingerprint", 40.0)
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with ZipFile(path, "w") as archive:
        for member, content in {**members, f"{name}.npy": array}.items():
            archive.writestr(member, content)
    with pytest.raises(InputError, match=f"{name} is an array of .* expected up to 50000000 Gaussians"):
        read_scaffold(path)
    assert load_scaffold(path, "fingerprint") is None


def test_a_ply_that_counts_too_many_is_refused(tmp_path):
    text = "ply\nformat ascii 1.0\nelement vertex 900000000000\nproperty float x\nend_header\n1\n"
    (tmp_path / "a.ply").write_text(text)
    with pytest.raises(InputError, match="its header counts 900000000000 elements"):
        read_scaffold(tmp_path / "a.ply")


def test_the_bias_field_is_found_and_the_anchor_left_alone(anchor):
    """A field of ± 30 % across the head: what is left of it is less than a third."""
    shape = anchor.volume.data.shape
    ramp = np.exp(np.linspace(-0.3, 0.3, shape[0]))[:, None, None].astype(np.float32) * np.ones(
        shape, np.float32
    )
    shaded = Volume(anchor.volume.data * ramp, anchor.volume.world_from_voxel)
    field = bias_field(shaded, anchor.foreground)
    corrected = replace(anchor, volume=shaded).divided_by(field)
    inside = ndimage.binary_erosion(anchor.foreground, iterations=2)
    left = np.log(corrected.volume.data[inside] / anchor.volume.data[inside])
    assert np.std(left) < np.std(np.log(ramp[inside])) / 3
    assert field[anchor.foreground].mean() == pytest.approx(1, abs=0.1)
    np.testing.assert_array_equal(bias_field(shaded, anchor.foreground), field)


def test_no_field_where_there_is_nothing_to_estimate():
    volume = Volume(np.ones((4, 4, 4), np.float32), np.eye(4))
    field = bias_field(volume, np.zeros((4, 4, 4), bool))
    np.testing.assert_array_equal(field, 1)
