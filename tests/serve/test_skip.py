"""No slice that could show tissue is ever left out; what is left out says so."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file

from tests.serve.conftest import make_scan, picture, rows, run, write_volume
from tests.serve.recovery import recover
from wsseg.imaging import FileRef, ScanRef, Window, read
from wsseg.serve.empty_slices import CT, SKIPPED_EMPTY, skip_empty
from wsseg.serve.inspection import inspect

DATA = os.environ.get("WSSEG_DATA")
SIDE = 72
ANY = Window(kind="image")


def air(seed: int = 0, noise: float = 30.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-1000, noise, (SIDE, SIDE)).clip(-1024)


def left_out(*slices: np.ndarray, window: Window = ANY, modality: str = CT, flags=()) -> list[int]:
    scan = make_scan(np.stack(slices), modality=modality, flags=flags)
    return sorted(inspect(scan, skip_empty(window)).empty)


@pytest.mark.parametrize(
    "empty",
    [
        np.zeros((SIDE, SIDE)),
        np.full((SIDE, SIDE), -3024),
        np.full((SIDE, SIDE, 3), (0, 0, 90)),
    ],
)
def test_a_slice_of_one_value_is_left_out_in_any_modality(empty: np.ndarray):
    assert left_out(empty, modality="") == left_out(empty, modality="MR") == [0]


def test_air_is_left_out_with_its_noise_and_its_padding():
    padded = air()
    padded[:20] = -3024
    assert left_out(air(), padded, air(1, noise=45)) == [0, 1, 2]


@given(
    seed=st.integers(0, 9),
    value=st.floats(-799, 3000),
    at=st.tuples(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1)),
)
def test_one_pixel_with_a_fifth_of_tissue_keeps_a_slice(seed: int, value: float, at):
    pixels = air(seed)
    pixels[at] = value
    assert left_out(pixels) == []


@given(
    seed=st.integers(0, 9),
    value=st.floats(-900, 3000),
    size=st.integers(5, 30),
    at=st.tuples(st.integers(0, SIDE - 30), st.integers(0, SIDE - 30)),
)
def test_a_patch_of_lung_keeps_a_slice_also_beside_padding(seed: int, value: float, size, at):
    pixels = air(seed)
    pixels[:, : at[1]] = -3024
    pixels[at[0] : at[0] + size, at[1] : at[1] + size] = value
    assert left_out(pixels) == []


@given(seed=st.integers(0, 99), difference=st.integers(1, 255))
def test_two_values_are_enough_to_keep_a_slice_that_is_not_ct(seed: int, difference: int):
    pixels = np.zeros((SIDE, SIDE))
    pixels.flat[np.random.default_rng(seed).integers(SIDE * SIDE)] = difference
    assert left_out(pixels, modality="") == []


@pytest.mark.parametrize("flag", ["NOT_HU", "MONOCHROME1"])
def test_values_that_are_no_hounsfield_units_are_not_taken_for_air(flag: str):
    assert left_out(air(), flags=(flag,)) == []
    assert left_out(air(), modality="MR") == []


def test_a_value_at_the_top_of_the_window_may_be_saturated_tissue():
    white = np.full((SIDE, SIDE), 255)
    assert left_out(white, window=Window(low=0, high=255), modality="") == []
    assert left_out(white - 1, window=Window(low=0, high=255), modality="") == [0]


def test_a_small_crop_of_one_value_may_be_the_inside_of_something():
    assert left_out(np.zeros((63, 64)), modality="") == []
    assert left_out(np.full((63, 64), -1000.0)) == []


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "693_J2KI.dcm"])
def test_real_slices_with_a_body_are_kept(name: str):
    path = get_testdata_file(name)
    assert isinstance(path, str)
    scan = read(ScanRef("dicom", (FileRef(Path(path), name),)))
    assert not inspect(scan, skip_empty(Window(low=-160, high=240))).empty


@cache
def real_slice(name: str) -> np.ndarray:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return np.asarray(read(ScanRef("dicom", (FileRef(Path(path), name),))).pixels[0])


@given(
    seed=st.integers(0, 9),
    start=st.tuples(st.integers(0, 120), st.integers(0, 120)),
    shape=st.tuples(st.integers(5, 128), st.integers(5, 128)),
    at=st.tuples(st.integers(0, 140), st.integers(0, 140)),
)
def test_any_piece_of_a_real_body_in_air_keeps_a_slice(seed: int, start, shape, at):
    # No value of this scan is below -896 HU: its emptiest corners are as thin as lung.
    piece = real_slice("CT_small.dcm")[start[0] :, start[1] :][: shape[0], : shape[1]]
    pixels = np.random.default_rng(seed).normal(-1000, 30, (160, 160)).clip(-1024)
    place = pixels[at[0] :, at[1] :][: piece.shape[0], : piece.shape[1]]
    place[:] = piece[: place.shape[0], : place.shape[1]]
    assert min(place.shape) < 5 or left_out(pixels) == []


@pytest.mark.parametrize("around", [-1000, -1024, -3024])
def test_the_air_of_a_real_scan_is_left_out_and_with_the_body_in_view_it_is_not(around: int):
    whole = real_slice("693_J2KI.dcm")
    air_alone, with_skin = (
        np.pad(whole[64:96, 128:end], 32, constant_values=around) for end in (224, 288)
    )
    assert left_out(air_alone) == [0]
    assert left_out(with_skin) == []


@pytest.mark.skipif(not DATA, reason="WSSEG_DATA names no folder with abdomen_ct")
def test_no_slice_of_the_abdomen_with_an_organ_is_left_out():
    folder = Path(DATA or "", "abdomen_ct")
    with_organ = 0
    for path in sorted((folder / "images").iterdir()):
        if not np.asarray(Image.open(folder / "labels" / path.name)).any():
            continue
        with_organ += 1
        grey = np.asarray(Image.open(path)).astype(np.float64)
        # Pictures of the window -125..275 HU; what it cut off below is taken for air, at the worst.
        assert not left_out(np.where(grey > 0, grey / 255 * 400 - 125, -1000)), path.name
    assert with_organ


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Three slices; the middle one is of one value, which the model would call bright."""
    path = tmp_path / "scans" / "volume.nii.gz"
    path.parent.mkdir()
    shape = (SIDE, SIDE)
    write_volume(
        path, np.stack([picture(0, shape), np.full(shape, 150, np.uint8), picture(1, shape)])
    )
    return path


def test_a_slice_left_out_is_measured_as_empty_and_flagged(model: Path, tmp_path: Path, volume):
    run(model, tmp_path / "ratios.csv", volume, masks=tmp_path / "masks")
    bright = [row for row in rows(tmp_path / "ratios.csv") if row["ratio_name"] == "bright"]
    assert [SKIPPED_EMPTY in row["flags"] for row in bright] == [False, True, False]
    assert (bright[1]["numerator_px"], bright[1]["ratio"], bright[1]["confidence"]) == (
        "0",
        "0.0",
        "",
    )
    inside = [r for r in rows(tmp_path / "ratios.csv") if r["ratio_name"] == "brightest in bright"]
    assert (inside[1]["denominator_px"], inside[1]["ratio"]) == ("0", "")
    series = rows(tmp_path / "ratios.series.csv")
    assert not any(SKIPPED_EMPTY in row["flags"] for row in series)


def test_without_the_rule_every_slice_is_run(model: Path, tmp_path: Path, volume):
    run(model, tmp_path / "ratios.csv", volume, skip=False)
    bright = [row for row in rows(tmp_path / "ratios.csv") if row["ratio_name"] == "bright"]
    assert bright[1]["ratio"] == "1.0"
    assert SKIPPED_EMPTY not in bright[1]["flags"]


def test_a_series_of_empty_slices_alone_is_flagged(model: Path, tmp_path: Path):
    write_volume(tmp_path / "empty.nii.gz", np.zeros((2, SIDE, SIDE), np.uint8))
    run(model, tmp_path / "ratios.csv", tmp_path / "empty.nii.gz")
    assert all(SKIPPED_EMPTY in row["flags"] for row in rows(tmp_path / "ratios.series.csv"))


def test_a_known_ratio_on_a_slice_left_out_is_recovered_and_changes_no_measurement(
    model: Path, tmp_path: Path, volume
):
    run(model, tmp_path / "plain.csv", volume)
    table = "source,slice,ratio:bright\nvolume.nii.gz,1,0.25\nvolume.nii.gz,2,0.1\n"
    _, found, _ = recover(model, tmp_path, table, volume)
    assert rows(tmp_path / "plain.csv") == rows(tmp_path / "out" / "ratios.csv")
    assert [row["slice"] for row in found] == ["1", "2"]
    assert found[0]["pixels"] == str(SIDE * SIDE // 4)
    assert [SKIPPED_EMPTY in row["flags"] for row in found] == [True, False]
