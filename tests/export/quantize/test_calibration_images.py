import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import openpyxl
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from wsseg.export.calibration import calibration_slices, evenly
from wsseg.imaging import WssegError
from wsseg.imaging.dicom import reader as dicom_read


def picture(number):
    return np.full((20, 24), number, np.uint8)


@pytest.fixture
def folder(tmp_path):
    for number in range(10):
        Image.fromarray(picture(number)).save(tmp_path / f"{number}.png")
    return tmp_path


def values(slices):
    return [float(raw.flat[0]) for raw in slices]


def read(source, count=128, channels=1, held_out=()):
    return calibration_slices(source, channels=channels, count=count, held_out=held_out)


def test_slices_of_a_folder_are_spread_evenly_and_the_same_every_time(folder):
    assert values(read(folder)) == list(range(10))
    assert values(read(folder, count=3)) == [1, 5, 8]
    assert values(read(folder, count=3)) == values(read(folder, count=3))


@pytest.mark.parametrize(("channels", "shape"), [(1, (1, 20, 24)), (3, (3, 20, 24))])
def test_slices_have_the_channels_of_the_network_and_their_own_units(folder, channels, shape):
    (raw,) = read(folder, count=1, channels=channels)
    assert raw.shape == shape
    assert raw.dtype == np.float32


def test_a_volume_gives_as_many_slices_as_are_wanted(tmp_path):
    volume = np.zeros((24, 20, 30), np.float32) + np.arange(30, dtype=np.float32) - 1000
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "scan.nii.gz")
    found = values(read(tmp_path, count=5))
    assert len(found) == 5
    assert min(found) < -990
    assert max(found) > -980


def test_a_cine_that_does_not_fit_in_memory_gives_the_slices_that_it_would(monkeypatch):
    cine = Path(str(get_testdata_file("examples_ybr_color.dcm", download=False)))
    short = read(cine, count=4, channels=3)
    monkeypatch.setattr(dicom_read, "LONG_PIXELS", 0)
    long = read(cine, count=4, channels=3)
    assert len(long) == 4
    np.testing.assert_array_equal(long, short)


def test_several_volumes_give_no_more_together(tmp_path):
    for number in range(3):
        volume = np.zeros((24, 20, 30), np.float32) + np.arange(30, dtype=np.float32) + 100 * number
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / f"scan{number}.nii.gz")
    found = values(read(tmp_path, count=4))
    assert len(found) == 4
    assert {int(value) // 100 for value in found} == {0, 1, 2}


def test_a_table_needs_no_labels_and_gives_its_training_rows(folder):
    table = folder / "cases.csv"
    rows = [f"{n}.png,{'val' if n < 4 else 'train'}" for n in range(10)]
    table.write_text("\n".join(["image,split", *rows]))
    assert values(read(table)) == [4, 5, 6, 7, 8, 9]
    table.write_text("image\n3.png\n")
    assert values(read(table)) == [3]


def test_a_workbook_is_a_table_too(folder):
    book = openpyxl.Workbook()
    for line in (("Image", "Split", "Patient"), ("0.png", "val", "X"), (".\\1.png", "train", "Y")):
        book.active.append(line)
    book.save(folder / "cases.xlsx")
    assert values(read(folder / "cases.xlsx")) == [1]


def test_slices_that_judge_the_engine_do_not_calibrate_it(folder):
    held_out = [picture(number)[None].astype(np.float32) for number in (2, 5)]
    assert values(read(folder, held_out=held_out)) == [0, 1, 3, 4, 6, 7, 8, 9]


def test_an_unreadable_image_is_skipped_with_a_warning(folder, caplog):
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:50])
    with caplog.at_level(logging.WARNING, "wsseg.export"):
        assert values(read(folder)) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert "3.png is skipped" in caplog.text
    caplog.clear()
    (folder / "cases.csv").write_text("image\n2.png\n3.png\nmissing.png\n")
    with caplog.at_level(logging.WARNING, "wsseg.export"):
        assert values(read(folder / "cases.csv")) == [2]
    assert "cases.csv, line 3 is skipped" in caplog.text
    assert "cases.csv, line 4 is skipped" in caplog.text


def test_what_holds_no_image_is_an_error_that_says_what_to_give(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(WssegError, match="holds no image to calibrate int8 by"):
        read(empty)
    with pytest.raises(WssegError, match="does not exist"):
        read(tmp_path / "missing")
    with pytest.raises(WssegError, match="cannot be read"):
        read(tmp_path / "missing.csv")
    (tmp_path / "cases.csv").write_text("picture\na.png\n")
    with pytest.raises(WssegError, match="no column named image"):
        read(tmp_path / "cases.csv")


def test_places_are_the_middles_of_equal_parts():
    assert evenly(10, 3) == [1, 5, 8]
    assert evenly(2, 5) == [0, 1]
    assert evenly(0, 5) == []
