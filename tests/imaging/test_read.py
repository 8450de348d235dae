"""Whatever is wrong with a file, reading it ends in a scan or in a ReadError."""

import errno
import logging
import random
import zlib
from pathlib import Path

import nrrd
import numpy as np
import pytest
from nibabel.freesurfer.mghformat import MGHImage
from nibabel.nifti1 import Nifti1Image
from PIL import Image

from wsseg.imaging import (
    FileRef,
    Geometry,
    ReadError,
    Scan,
    ScanRef,
    SliceId,
    find,
    read,
    write_labels,
)
from wsseg.imaging import reading as read_module

REF = ScanRef("picture", (FileRef(Path("x"), "folder/a.png"),))
DAMAGE = 300


def fail_with(monkeypatch, error):
    def broken(ref, limits):
        raise error

    monkeypatch.setattr(read_module, "read_picture", broken)


@pytest.mark.parametrize("kind", ["dicom", "volume", "picture"])
def test_each_kind_goes_to_its_reader(monkeypatch, kind):
    ref = ScanRef(kind, (FileRef(Path("x"), "a"),))
    expected = Scan(np.zeros((1, 1, 1), np.float32), Geometry(), (SliceId("a"),), ref)
    monkeypatch.setattr(read_module, f"read_{kind}", {ref: expected}.get)
    assert read(ref) is expected


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out_of_memory"),
        (RecursionError("Doe^Jane"), "unreadable"),
        (ValueError("Doe^Jane"), "unreadable"),
        (FileNotFoundError(2, "Doe^Jane"), "file_gone"),
        (PermissionError(13, "Doe^Jane"), "no_permission"),
        (OSError(errno.ENOSPC, "Doe^Jane"), "no_space"),
        (ReadError("too_large", "folder/a.png: crop it"), "too_large"),
    ],
)
def test_any_exception_becomes_a_read_error_without_the_librarys_words(
    monkeypatch, caplog, error, reason
):
    fail_with(monkeypatch, error)
    with caplog.at_level(logging.DEBUG), pytest.raises(ReadError) as caught:
        read(REF)
    assert caught.value.reason == reason
    assert "folder/a.png" in str(caught.value)
    assert "Doe" not in str(caught.value)
    assert "Doe" not in caplog.text


def test_the_place_of_an_unexpected_exception_is_logged_for_debugging(monkeypatch, caplog):
    fail_with(monkeypatch, KeyError("Doe^Jane"))
    with caplog.at_level(logging.DEBUG, "wsseg"), pytest.raises(ReadError):
        read(REF)
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert "in broken" in record.getMessage()


def test_stopping_the_program_is_no_read_error(monkeypatch):
    fail_with(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        read(REF)


VOLUMES = ["a.nii", "a.nii.gz", "a.mgz", "a.nrrd", "a.mha"]
META_IMAGE = b"""ObjectType = Image
NDims = 3
CompressedData = True
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = 1 1 1
DimSize = 4 5 12
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""


def write_volume(path):
    voxels = np.arange(240, dtype=np.int16).reshape(4, 5, 6, 2)
    if path.suffix == ".nrrd":
        nrrd.write(str(path), voxels)
    elif path.suffix == ".mha":
        path.write_bytes(META_IMAGE + zlib.compress(voxels.tobytes()))
    else:
        kind = MGHImage if path.suffix == ".mgz" else Nifti1Image
        kind(voxels, np.eye(4)).to_filename(path)


@pytest.mark.parametrize("name", [*VOLUMES, "a.png", "a.tif", "a.jpg"])
def test_random_damage_gives_a_scan_or_a_read_error(tmp_path, name):
    path = tmp_path / name
    if name in VOLUMES:
        write_volume(path)
    else:
        Image.fromarray(np.arange(240, dtype=np.uint8).reshape(12, 20)).save(path)
    whole = path.read_bytes()
    ref = ScanRef("volume" if name in VOLUMES else "picture", (FileRef(path, name),))
    assert np.size(read(ref).pixels)
    chance = random.Random(0)
    for _ in range(DAMAGE):
        damaged = bytearray(
            whole[: chance.randrange(len(whole)) if chance.random() < 0.2 else None]
        )
        for _ in range(chance.randrange(1, 4)):
            if damaged:
                damaged[chance.randrange(min(len(damaged), 400))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            scan = read(ref)
        except ReadError:
            continue
        assert np.isfinite(scan.pixels).all()
        assert len(scan.slices) == len(scan.pixels)


@pytest.mark.parametrize("name", ["a.png", "a.nii.gz"])
@pytest.mark.parametrize("content", ["another", "broken"])
def test_a_file_replaced_after_it_was_found_fails(tmp_path, name, content):
    path = tmp_path / name
    write_any(path, 5)
    (ref,) = find([path], scratch=tmp_path)
    assert isinstance(ref, ScanRef)
    read(ref)
    write_any(path, 7)
    if content == "broken":
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ReadError) as caught:
        read(ref)
    assert caught.value.reason == "changed"


def test_labels_are_not_laid_on_a_volume_that_was_replaced(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_any(path, 5)
    (ref,) = find([path], scratch=tmp_path)
    assert isinstance(ref, ScanRef)
    scan = read(ref)
    write_any(path, 5, spacing=2)
    with pytest.raises(ReadError) as caught:
        write_labels(scan, np.zeros(scan.pixels.shape, np.uint8), tmp_path)
    assert caught.value.reason == "changed"


def write_any(path, size, spacing=1):
    pixels = np.zeros((size, size), np.uint8)
    if path.suffix == ".png":
        Image.fromarray(pixels).save(path)
    else:
        Nifti1Image(pixels[..., None], np.diag([spacing, 1, 1, 1])).to_filename(path)
