import logging

import nibabel
import numpy as np
import pytest
from PIL import Image

from wsseg.imaging import Window
from wsseg.imaging.reading import read_slice_and_origin
from wsseg.train.cases import IMAGES, Case, choose_input


def pictures(folder, arrays):
    files = [folder / f"{number}.png" for number in range(len(arrays))]
    for file, array in zip(files, arrays, strict=True):
        Image.fromarray(array).save(file)
    return cases(files)


def volumes(folder, arrays):
    files = [folder / f"{number}.nii.gz" for number in range(len(arrays))]
    for file, array in zip(files, arrays, strict=True):
        nibabel.save(nibabel.Nifti1Image(array[..., None].astype(np.float32), np.eye(4)), file)
    return cases(files)


def cases(files):
    return [Case(row=2 + number, image=file, ratios=(0.1,)) for number, file in enumerate(files)]


def noise(seed, shape=(20, 20)):
    return np.random.default_rng(seed).random(shape)


def test_8_bit_grey_pictures_get_the_full_byte_and_one_channel(tmp_path):
    table = pictures(tmp_path, [(noise(n) * 100).astype(np.uint8) for n in range(3)])
    assert choose_input(table) == (Window(kind="fixed", low=0, high=255), 1)


def test_one_colour_picture_among_grey_ones_asks_for_three_channels(tmp_path):
    grey = (noise(0) * 255).astype(np.uint8)
    colour = (noise(1, (20, 20, 3)) * 255).astype(np.uint8)
    assert choose_input(pictures(tmp_path, [grey, colour]))[1] == 3


def test_rgb_pictures_without_colours_are_grey(tmp_path):
    grey = (noise(0) * 255).astype(np.uint8)
    assert choose_input(pictures(tmp_path, [np.dstack([grey] * 3)]))[1] == 1


def test_hounsfield_units_share_a_scale_however_different_the_slices(tmp_path):
    air = noise(0) * 50 - 1024
    body = noise(1) * 400 - 150
    window, channels = choose_input(volumes(tmp_path, [air, body, body + 700]))
    every = np.stack([air, body, body + 700]).astype(np.float32)
    low, high = np.percentile(every, (0.5, 99.5))
    assert channels == 1
    assert window.kind == "fixed"
    assert (window.low, window.high) == pytest.approx((low, high), rel=1e-5)


def test_images_of_one_bright_end_share_a_window(tmp_path):
    window, _ = choose_input(volumes(tmp_path, [noise(n) * (900 + 10 * n) for n in range(5)]))
    assert window.kind == "fixed"
    assert window.high == pytest.approx(940, abs=40)


def test_images_of_different_gain_are_windowed_one_by_one(tmp_path):
    window, _ = choose_input(volumes(tmp_path, [noise(n) * 300 * 2**n for n in range(5)]))
    assert window.kind == "image"


def test_constant_images_still_give_a_window(tmp_path):
    window, _ = choose_input(volumes(tmp_path, [np.full((8, 8), 700.5)]))
    assert window.kind == "image"


def test_the_choice_is_logged_in_one_line(tmp_path, caplog):
    table = pictures(tmp_path, [(noise(0) * 255).astype(np.uint8)])
    with caplog.at_level(logging.INFO, "wsseg.train.cases.images"):
        choose_input(table)
    assert caplog.messages == ["input: 1 channel, window 0..255 (8-bit values, seen on 1 images)"]


def test_only_a_spread_sample_of_a_large_table_is_read(tmp_path, monkeypatch):
    table = pictures(tmp_path, [(noise(0) * 255).astype(np.uint8)]) * 1000
    read = []

    def counted(path, **place):
        read.append(path)
        return read_slice_and_origin(path, **place)

    monkeypatch.setattr("wsseg.train.cases.files.read_slice_and_origin", counted)
    choose_input(table)
    assert len(read) == IMAGES
