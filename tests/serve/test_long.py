"""A long scan, decoded by frame, is measured as a short one is, and what fails of it is told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from tests.serve.conftest import ThresholdEngine, make_scan, run
from wsseg.imaging import Failure, ReadError
from wsseg.imaging import scan as planes
from wsseg.imaging.dicom import reader as dicom_read
from wsseg.imaging.scan import Planes
from wsseg.serve.batching import Limits, Segmenter
from wsseg.serve.empty_slices import skip_none
from wsseg.serve.inspection import inspect


@pytest.mark.slow
def test_a_cine_has_the_same_tables_and_masks_whether_it_fits_in_memory_or_not(
    model: Path, tmp_path: Path, monkeypatch
):
    path = get_testdata_file("examples_ybr_color.dcm", download=False)
    assert isinstance(path, str)
    run(model, tmp_path / "short" / "ratios.csv", Path(path), masks=tmp_path / "short" / "masks")
    monkeypatch.setattr(dicom_read, "LONG_PIXELS", 0)
    monkeypatch.setattr(planes, "HELD_BYTES", 7 * int(dcmread(path).Rows) * dcmread(path).Columns)
    run(model, tmp_path / "long" / "ratios.csv", Path(path), masks=tmp_path / "long" / "masks")
    short, long = (sorted((tmp_path / name).rglob("*.*")) for name in ("short", "long"))
    assert [file.name for file in short] == [file.name for file in long]
    for one, other in zip(short, long, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_a_slice_that_cannot_be_read_again_costs_its_own_scan_only(batch: int, monkeypatch):
    monkeypatch.setattr(planes, "HELD_BYTES", 2 * 6 * 8 * 4)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 8)).astype(np.float32)
    asked: list[int] = []

    def once(wanted):
        for index in wanted:
            asked.append(index)
            if index == 3 and asked.count(index) > 1:
                raise ReadError("unreadable", "the disk was pulled out")
            yield pixels[index]

    scans = [
        make_scan(pixels[:2], name="before"),
        replace(make_scan(pixels, name="pulled out"), pixels=Planes(pixels.shape, once)),
        make_scan(pixels[::-1] + 1, name="after"),
    ]
    segmenter = Segmenter(
        engine=ThresholdEngine(),
        classes=2,
        channels=1,
        limits=Limits(slices=batch),
        keep_labels=True,
    )
    found = list(segmenter(inspect(scan, skip_none) for scan in scans))
    failed = [item for item in found if isinstance(item, Failure)]
    assert [item.source for item in failed] == ["pulled out"]
    assert "slice 3: could not be read again: the disk was pulled out" in failed[0].message
    assert len(found) == 3
