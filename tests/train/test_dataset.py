import math

import numpy as np
import pytest
import torch
from PIL import Image

from wsseg.imaging import RatioDefinition, Window, read_slice
from wsseg.train.cases import Case
from wsseg.train.data.batch import collate
from wsseg.train.data.dataset import CaseDataset
from wsseg.train.data.preprocess import Preprocess

CLASSES = ("organ", "tumour")
RATIOS = (
    RatioDefinition(name="organ", numerator="organ"),
    RatioDefinition(name="tumour in organ", numerator="tumour", denominator="organ"),
)
GREY = Preprocess(Window(), 32, 1)
COLOUR = Preprocess(Window(), 32, 3)


def labels():
    """An organ of a quarter of the picture, with a tumour of a quarter of the organ."""
    mask = np.zeros((64, 48), np.uint8)
    mask[16:48, 12:36] = 1
    mask[16:32, 12:24] = 2
    return mask


@pytest.fixture
def case(tmp_path):
    marks = np.zeros((64, 48), np.uint8)
    marks[20, 20] = 2
    marks[0:4, 0:4] = 255
    image = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48) % 251
    for name, array in (("image", image), ("mask", labels()), ("marks", marks)):
        Image.fromarray(array.astype(np.uint8)).save(tmp_path / f"{name}.png")
    return Case(
        row=2,
        image=tmp_path / "image.png",
        ratios=(0.25, None),
        marks=tmp_path / "marks.png",
        points=((40, 30, 1),),
        mask=tmp_path / "mask.png",
    )


def bare(case, **changes):
    return Case(row=3, image=case.image, ratios=(None, 0.5), **changes)


def test_an_item_has_the_networks_size_and_what_the_table_says(case):
    sample = CaseDataset([case], CLASSES, RATIOS, GREY).item(0)
    assert sample.image.shape == (1, 32, 32)
    assert sample.image.dtype == torch.float32
    assert 0 <= sample.image.min() < sample.image.max() <= 1
    assert sample.ratio[0] == 0.25
    assert math.isnan(sample.ratio[1])
    assert sample.has_mask
    assert sample.mask.float().mean((1, 2)).tolist() == pytest.approx([3 / 16, 1 / 16])
    # Pixel (20, 20) of 64 x 48 lies in cell (10, 13) of 32 x 32, point (40, 30) in (20, 20).
    assert sample.marks[10, 13] == 2
    assert sample.marks[20, 20] == 1
    assert sample.marks[0, 0] == 255
    assert sample.marks.count_nonzero() < 12


def test_an_items_image_is_what_the_network_will_see_in_use(case):
    cases = CaseDataset([case], CLASSES, RATIOS, GREY)
    served = GREY.prepare(cases.native(0).image[None])[0]
    torch.testing.assert_close(cases.item(0).image, served, atol=1 / 4000, rtol=0)


def test_native_has_the_raw_grid_and_units(case):
    native = CaseDataset([case], CLASSES, RATIOS, GREY).native(0)
    assert native.image.shape == (1, 64, 48)
    assert native.image.max() == 250
    assert native.mask is not None
    assert native.mask.sum((1, 2)).tolist() == [32 * 24 - 16 * 12, 16 * 12]
    assert native.marks[20, 20] == 2
    assert native.marks[40, 30] == 1
    assert (native.marks == 255).sum() == 16


def test_a_case_without_mask_and_marks_has_none(case):
    cases = CaseDataset([bare(case)], CLASSES, RATIOS, GREY)
    sample = cases.item(0)
    assert not sample.has_mask
    assert not sample.mask.any()
    assert not sample.marks.any()
    assert cases.native(0).mask is None
    assert not cases.native(0).marks.any()


def test_a_black_and_white_mask_of_one_class_is_that_class(case, tmp_path):
    Image.fromarray((labels() > 0).astype(np.uint8) * 255).save(tmp_path / "white.png")
    one = Case(row=2, image=case.image, ratios=(0.25,), mask=tmp_path / "white.png")
    cases = CaseDataset([one], ("organ",), (), GREY)
    assert cases.item(0).mask.float().mean() == pytest.approx(0.25)
    native = cases.native(0).mask
    assert native is not None
    assert native.float().mean() == pytest.approx(0.25)


def test_only_shares_of_the_whole_image_are_called_so():
    assert CaseDataset([], CLASSES, RATIOS, GREY).of_image.tolist() == [True, False]
    assert CaseDataset([], CLASSES, (), GREY).of_image.tolist() == [True, True]


def test_grey_becomes_three_channels_and_colour_one_where_the_network_reads_that(case, tmp_path):
    colour = np.zeros((64, 48, 3), np.uint8)
    colour[..., 0], colour[..., 1] = 200, 100
    Image.fromarray(colour).save(tmp_path / "colour.png")
    coloured = Case(row=2, image=tmp_path / "colour.png", ratios=(0.1, None))
    grey = CaseDataset([coloured], CLASSES, RATIOS, GREY).native(0).image
    torch.testing.assert_close(grey, torch.full((1, 64, 48), 0.299 * 200 + 0.587 * 100))
    three = CaseDataset([case, coloured], CLASSES, RATIOS, COLOUR)
    assert torch.equal(three.native(0).image[0], three.native(0).image[2])
    assert three.native(1).image[:, 0, 0].tolist() == [200, 100, 0]


def count_reads(monkeypatch):
    read = []

    def counted(path, **place):
        read.append(path)
        return read_slice(path, **place)

    monkeypatch.setattr("wsseg.train.cases.files.read_slice", counted)
    return read


def test_a_case_is_read_once_where_memory_allows(case, monkeypatch):
    read = count_reads(monkeypatch)
    cases = CaseDataset([case, bare(case)], CLASSES, RATIOS, GREY)
    cases.fill()
    assert len(read) == 2
    first, second = cases.item(0), cases.item(0)
    assert len(read) == 2
    assert torch.equal(first.image, second.image)


def test_too_many_cases_for_the_memory_are_read_each_time(case, monkeypatch):
    read = count_reads(monkeypatch)
    cases = CaseDataset([case, bare(case)], CLASSES, RATIOS, GREY, cache_bytes=100)
    cases.fill()
    assert read == []
    assert torch.equal(cases.item(0).image, cases.item(0).image)
    assert len(read) == 2


def test_collate_stacks_in_order(case):
    cases = CaseDataset([case, bare(case)], CLASSES, RATIOS, GREY)
    batch = collate([cases.item(1), cases.item(0)])
    assert batch.index.tolist() == [1, 0]
    assert batch.has_mask.tolist() == [False, True]
    assert batch.image.shape == (2, 1, 32, 32)
    assert torch.equal(batch.marks[1], cases.item(0).marks)
    assert torch.isnan(batch.ratio).tolist() == [[True, False], [False, True]]
