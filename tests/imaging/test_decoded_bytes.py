"""What a scan will take in memory is known from its headers, before it is read."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from wsseg.imaging import ScanRef, find, read


def refs(path: Path, scratch: Path) -> list[ScanRef]:
    return [found for found in find([path], scratch=scratch) if isinstance(found, ScanRef)]


def made(folder: Path, name: str) -> Path:
    path = folder / name
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    match name:
        case "volumes.nii.gz":
            nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 2), np.int16), np.eye(4)), path)
        case "pages.tiff":
            pages = [Image.fromarray(pixels[..., 0])] * 3
            pages[0].save(path, save_all=True, append_images=pages[1:])
        case _:
            Image.fromarray(pixels if "colour" in name else pixels[..., 0]).save(path)
    return path


@pytest.mark.parametrize("name", ["grey.png", "colour.png", "colour.jpg", "pages.tiff"])
def test_a_picture_decodes_to_what_was_told(tmp_path: Path, name: str):
    (ref,) = refs(made(tmp_path, name), tmp_path)
    assert ref.decoded_bytes == read(ref).pixels.nbytes


def test_each_volume_of_a_nifti_file_is_told_alone(tmp_path: Path):
    found = refs(made(tmp_path, "volumes.nii.gz"), tmp_path)
    assert [ref.decoded_bytes for ref in found] == [4 * 5 * 6 * 4] * 2


@pytest.mark.parametrize("name", ["CT_small.dcm", "693_J2KI.dcm", "examples_ybr_color.dcm"])
def test_a_dicom_file_decodes_to_what_was_told_also_where_it_is_compressed(
    tmp_path: Path, name: str
):
    path = get_testdata_file(name)
    assert isinstance(path, str)
    (ref,) = refs(Path(path), tmp_path)
    assert ref.decoded_bytes == read(ref).pixels.nbytes


def test_a_damaged_picture_is_found_and_told_when_it_is_read(tmp_path: Path):
    path = made(tmp_path, "grey.png")
    path.write_bytes(path.read_bytes()[:20])
    (ref,) = refs(path, tmp_path)
    assert ref.decoded_bytes == 0
