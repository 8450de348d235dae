"""How often the files of a table are opened until a network could take its first step."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from tests.imaging.conftest import write_dicom
from wsseg.train.cases import files, images, table
from wsseg.train.config import TrainConfig
from wsseg.train.data import dataset
from wsseg.train.targets import case_targets
from wsseg.train.trainer import cases_for, choose_facts, prepare_data

__all__ = ["write_dicom"]

CONFIG = TrainConfig(network="mobilenet_v2", size=32, batch=2)
COUNTERS: list[Counter[str]] = []


def _count(event: str, arguments: tuple[object, ...]) -> None:
    # Only a file that exists: a table may be asked for one that does not.
    if event == "open" and COUNTERS and isinstance(arguments[0], str | os.PathLike):
        COUNTERS[-1][os.fspath(arguments[0])] += 1


sys.addaudithook(_count)


@contextmanager
def opened(folder: Path) -> Iterator[dict[str, int]]:
    """How often each file of a folder is opened in the block, by name."""
    opens: dict[str, int] = {}
    COUNTERS.append(Counter())
    try:
        yield opens
    finally:
        counts = COUNTERS.pop()
        opens |= {path.name: counts[str(path)] for path in folder.iterdir()}


def prepare(path: Path, config: TrainConfig = CONFIG) -> None:
    """All that a training does with the files of a table before its first step."""
    cases = cases_for(path, config)
    prepare_data(cases, config, choose_facts(cases, config))
    files.fingerprints(cases.cases)


@pytest.fixture
def one_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread at a time: two may look for the same header, and then both read it."""
    for module in (files, images, table, dataset, case_targets):
        monkeypatch.setattr(module, "READERS", 1)


# Of cases that say something else of their pictures each.
MIXED = ("ratio,marks", "mask", "ratio", "ratio,box", "marks", "ratio,marks,mask")


@pytest.mark.parametrize(("room", "times"), [(table.DECODED_BYTES, 1), (0, 2)])
@pytest.mark.parametrize("known", [(), MIXED], ids=["all", "mixed"])
def test_a_picture_is_opened_once_and_once_more_where_its_pixels_could_not_be_kept(
    make_blobs: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    known: tuple[str, ...],
    room: int,
    times: int,
) -> None:
    monkeypatch.setattr(table, "DECODED_BYTES", room)
    path = make_blobs(tmp_path, 24, 4, "ratio,marks,mask,box", (known * 24)[:24])
    with opened(tmp_path) as opens:
        prepare(path)
    assert max(opens.values()) == times


def test_a_picture_whose_area_is_known_in_pixels_is_opened_once_more(
    make_blobs: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_blobs(tmp_path, 12, 4, "marks")
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([f"{header},area_px", *(f"{line},200" for line in lines)]))
    with opened(tmp_path) as opens:
        prepare(path)
    assert max(opens.values()) == 2


def test_a_fold_opens_each_picture_once(make_blobs: Callable[..., Path], tmp_path: Path) -> None:
    path = make_blobs(tmp_path, 12, 4)
    with opened(tmp_path) as opens:
        prepare(path, CONFIG.model_copy(update={"folds": 3, "fold": 2}))
    assert max(opens.values()) == 1


def rows_of(images: Sequence[tuple[str, str, str]], path: Path) -> Path:
    """A table of images, slices and marks that all show the same small square."""
    lines = [f"{image},{index},0.1,{marks},{image}" for image, index, marks in images]
    path.write_text("\n".join(["image,slice,ratio,marks,group", *lines]) + "\n")
    return path


@pytest.mark.parametrize(("room", "times"), [(table.DECODED_BYTES, 1), (0, 2)])
def test_a_file_of_a_dicom_series_is_opened_as_often_as_a_picture(
    write_dicom: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    room: int,
    times: int,
) -> None:
    monkeypatch.setattr(table, "DECODED_BYTES", room)
    pixels = np.random.default_rng(0).integers(0, 900, (8, 16, 16), np.int16)
    for number, plane in enumerate(pixels):
        place = [0.0, 0.0, 2.0 * number]
        write_dicom(tmp_path / f"{number}.dcm", plane, ImagePositionPatient=place)
    path = rows_of([(f"{number}.dcm", "", "") for number in range(8)], tmp_path / "cases.csv")
    with opened(tmp_path) as opens:
        prepare(path)
    assert max(opens.values()) == times


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.usefixtures("one_reader")
def test_a_volume_is_not_opened_again_for_each_of_its_slices(tmp_path: Path, suffix: str) -> None:
    counts = []
    for slices in (5, 15):
        folder = tmp_path / str(slices)
        folder.mkdir()
        pixels = np.random.default_rng(0).integers(0, 900, (16, 16, slices), np.int16)
        marks = np.zeros(pixels.shape, np.uint8)
        marks[6:8, 6:8] = 1
        for name, voxels in (("image", pixels), ("marks", marks)):
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / f"{name}{suffix}")
        images = [(f"image{suffix}", str(index), f"marks{suffix}") for index in range(slices)]
        path = rows_of(images, folder / "cases.csv")
        with opened(folder) as opens:
            prepare(path)
        counts.append(opens)
    assert counts[0] == counts[1]
    assert max(counts[0].values()) < 10


def test_a_picture_that_changes_after_the_check_is_read_anew(
    make_blobs: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_blobs(tmp_path, 4, 1)
    cases = cases_for(path, CONFIG)
    changed = cases.part("train")[1].image
    Image.fromarray(255 - np.asarray(Image.open(changed))).save(changed)
    os.utime(changed, (1, 1))
    facts = choose_facts(cases, CONFIG)
    again = prepare_data(cases_for(path, CONFIG), CONFIG, facts).train
    data = prepare_data(cases, CONFIG, facts).train
    for index in range(len(data)):
        assert torch.equal(data.item(index).image, again.item(index).image)
