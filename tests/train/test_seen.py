"""What the images of a table are is kept for the model, and cases unlike the others are named."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.uid import MRImageStorage

from tests.imaging.conftest import _write_dicom
from wsseg.imaging import TextTable, Window
from wsseg.imaging.definitions import Extent
from wsseg.train.cases import Case, CaseTable, choose_input, image_doubts, mixed_origins, see
from wsseg.train.config import TrainConfig
from wsseg.train.trainer import choose_facts, prepare_data

NO_TEXT = TextTable(Path("cases.csv"), "", 1, (), ())


def grey(seed, level=120.0):
    random = np.random.default_rng(seed)
    return random.normal(level + random.uniform(-30, 30), 25, (24, 24)).clip(0, 255)


def cases(folder, arrays, split="train"):
    """One picture each, floats as TIFF; the rows of a table begin at line 2."""
    made = []
    for number, array in enumerate(arrays):
        path = folder / f"{split}{number}.{'tif' if array.dtype.kind == 'f' else 'png'}"
        Image.fromarray(array).save(path)
        made.append(Case(row=2 + number, image=path, ratios=(0.1,), split=split))
    return made


def bytes_of(seed):
    return grey(seed).astype(np.uint8)


def words_of(seed):
    return (grey(seed).astype(np.uint16) * 257).astype(np.uint16)


def fractions_of(seed):
    return (grey(seed) / 255).astype(np.float32)


@pytest.mark.parametrize("odd", [words_of, fractions_of], ids=["16 bits", "0 to 1"])
def test_few_images_on_another_scale_are_named_by_row_wherever_they_stand(tmp_path, odd):
    at = (70, 141, 199)
    table = cases(tmp_path, [odd(n) if n in at else bytes_of(n) for n in range(200)])
    (told,) = image_doubts(table)
    assert told.startswith("3 images have values of ")
    assert "line 72, 143, 201;" in told


def test_a_table_of_one_scale_raises_no_doubt(tmp_path):
    assert not list(image_doubts(cases(tmp_path, [bytes_of(n) for n in range(40)])))


def test_slices_of_air_and_of_one_value_among_ct_raise_no_doubt(tmp_path):
    table = []
    for number in range(30):
        slice_ = np.random.default_rng(number).normal(-1000, 15, (24, 24))
        if number % 10:
            slice_[4:20, 4:20] = np.random.default_rng(number).normal(40, 20, (16, 16))
            slice_[8:12, 8:12] = 700
        path = tmp_path / f"{number}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(slice_.astype(np.int16)[..., None], np.eye(4)), path)
        table.append(Case(row=2 + number, image=path, ratios=(0.1,)))
    assert not list(image_doubts(table))


def test_images_whose_scale_differs_anyway_raise_no_doubt(tmp_path):
    gains = np.random.default_rng(0).uniform(1, 40, 30)
    table = cases(tmp_path, [(grey(n) * gains[n]).astype(np.uint16) for n in range(30)])
    assert choose_input(table)[0].kind == "image"
    assert not list(image_doubts(table))


def test_a_training_names_them_too_validation_cases_among_them(tmp_path, caplog):
    train = cases(tmp_path, [words_of(n) if n == 7 else bytes_of(n) for n in range(30)])
    val = cases(tmp_path, [bytes_of(1), words_of(2)], "val")
    table = CaseTable(tmp_path / "cases.csv", "", ("roi",), (*train, *val), NO_TEXT)
    config = TrainConfig(size=32)
    facts = choose_facts(table, config)
    prepare_data(table, config, facts)
    (told,) = (m for m in caplog.messages if "save them on one scale" in m)
    assert "line 3, 9;" in told


def test_few_images_on_another_scale_do_not_stretch_the_window_of_all(tmp_path):
    arrays = [words_of(n) if n in (0, 63) else bytes_of(n) for n in range(64)]
    window, _ = choose_input(cases(tmp_path, arrays))
    assert (window.low, window.high) == (0, 255)


def test_pictures_name_no_modality_but_the_settings_may(tmp_path):
    table = cases(tmp_path, [bytes_of(n) for n in range(5)])
    assert see(table, None).modalities == {"": 5}
    seen = see(table, "US")
    assert seen.modalities == {"US": 5}
    assert seen.colours == {"grey": 5}
    assert seen.units == {"": 5}
    assert seen.intensities is not None
    assert 0 < seen.intensities.low < seen.intensities.high <= 255


def test_dicom_names_its_modality_and_ct_its_unit(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2000, (16, 16)).astype(np.uint16)
    path = _write_dicom(tmp_path / "a.dcm", pixels, RescaleIntercept=-1024, RescaleSlope=1)
    seen = see([Case(row=2, image=path, ratios=(0.1,))], "US")
    assert (seen.modalities, seen.units) == ({"CT": 1}, {"HU": 1})


def test_sizes_are_those_of_all_images_in_mm_only_where_every_file_states_them(tmp_path):
    volumes = []
    for number, (shape, lengths) in enumerate([((20, 30, 1), (0.5, 0.8)), ((40, 10, 1), (1, 2))]):
        path = tmp_path / f"{number}.nii"
        affine = np.diag([*lengths, 1.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.float32), affine), path)
        volumes.append(Case(row=2 + number, image=path, ratios=(0.1,)))
    seen = see(volumes, None)
    assert seen.side_px == Extent(least=10, most=40)
    assert seen.pixel_mm == Extent(least=0.5, most=2)
    assert seen.side_mm == Extent(least=10, most=40)
    with_a_picture = see([*volumes, *cases(tmp_path, [bytes_of(0)])], None)
    assert with_a_picture.side_px == Extent(least=10, most=40)
    assert with_a_picture.pixel_mm is None
    assert with_a_picture.side_mm is None


def test_a_window_of_the_settings_is_the_one_that_the_log_names(tmp_path, caplog):
    table = cases(tmp_path, [words_of(n) for n in range(3)])
    config = TrainConfig(window=Window(low=-160, high=240))
    with caplog.at_level("INFO", "wsseg.train"):
        choose_facts(CaseTable(tmp_path / "c.csv", "", ("roi",), tuple(table), NO_TEXT), config)
    assert any("window -160..240 (as the settings say)" in line for line in caplog.messages)


def test_images_of_another_modality_or_unit_than_most_are_named_by_row(tmp_path):
    table = []
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 2000, (16, 16)).astype(np.uint16)
        other: dict[int, dict[str, Any]] = {
            4: {"Modality": "MR", "SOPClassUID": MRImageStorage},
            6: {"RescaleSlope": None},
        }
        path = _write_dicom(tmp_path / f"{number}.dcm", pixels, **other.get(number, {}))
        table.append(Case(row=2 + number, image=path, ratios=(0.1,)))
    told = list(mixed_origins(table))
    assert any("are MR, most are CT in HU: line 6;" in doubt for doubt in told)
    assert any("are CT in no unit, most are CT in HU: line 8;" in doubt for doubt in told)
    assert len(told) == 2
    pictures = cases(tmp_path, [bytes_of(1)])
    assert not list(mixed_origins([table[0], *pictures]))
