"""Scans that are not like the training images say so; ordinary dark and bright ones do not."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.serve.conftest import failures, make_manifest, make_scan, rows, run, write_model
from wsseg.imaging import Geometry, Seen, Window
from wsseg.imaging.definitions import Extent
from wsseg.imaging.intensity import ends_of, range_of, thinned
from wsseg.serve.inspection import OTHER_MODALITY, OUT_OF_RANGE, compare_with
from wsseg.serve.manifest import Training

SIDE = 64
UNKNOWN = Training(preset="", network="", weights="", cases=0, cases_sha256="", epochs=0, seed=0)


def ultrasound(seed: int) -> np.ndarray:
    """Speckle of a level of its own with a dark disc, black outside its fan; whole numbers."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    grey = random.uniform(60, 150) + random.normal(0, 18, (SIDE, SIDE))
    grey[np.hypot(rows - 40, columns - 32) < random.uniform(6, 14)] -= 50
    grey[abs(columns - 32) > rows + 8] = 0
    return grey.clip(0, 255).round()


def computed(seed: int, *, side: int = SIDE) -> np.ndarray:
    """A body with bone in air, in HU; the middle `side` pixels of it."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    slice_ = random.normal(-1000, 15, (SIDE, SIDE))
    body = np.hypot(rows - 32, columns - 32) < random.uniform(22, 28)
    slice_[body] = random.normal(40, 20, body.sum())
    bone = np.hypot(rows - 42, columns - 32) < 5
    slice_[bone] = random.normal(random.uniform(300, 900), 60, bone.sum())
    edge = (SIDE - side) // 2
    return slice_.clip(-1024, 3071).round()[edge : edge + side, edge : edge + side]


def seen(images, **fields) -> Seen:
    ends = [ends_of(thinned(image)) for image in images]
    return Seen(intensities=range_of([end for end in ends if end]), **fields)


SONOGRAMS = seen([ultrasound(seed) for seed in range(100, 140)])
BODIES = seen([computed(seed) for seed in range(100, 140)])
HOUNSFIELD = Window(low=-1000, high=600)


def flags_of(pixels, known: Seen | None, window: Window | None = None, **scan) -> set[str]:
    training = UNKNOWN.model_copy(update={"seen": known})
    manifest = make_manifest(training=training, window=window or Window(low=0, high=255))
    return set(compare_with(manifest)(make_scan(np.asarray(pixels), **scan)).flags)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "rescaled",
    [lambda grey: grey * 257, lambda grey: grey * 16, lambda grey: grey / 255],
    ids=["16 bits", "12 bits", "0 to 1"],
)
def test_a_copy_on_another_scale_lies_outside_what_8_bit_pictures_taught(seed, rescaled):
    assert flags_of(rescaled(ultrasound(seed))[None], SONOGRAMS) == {OUT_OF_RANGE}


@given(
    seed=st.integers(0, 99),
    gain=st.floats(0.5, 1.7),
    offset=st.floats(-60, 60),
    gamma=st.floats(0.5, 2),
)
def test_dark_bright_flat_and_hard_pictures_do_not(seed, gain, offset, gamma):
    grey = 255 * (ultrasound(seed) / 255) ** gamma * gain + offset
    assert not flags_of(grey.clip(0, 255).round()[None], SONOGRAMS)


@pytest.mark.parametrize("seed", range(5))
def test_hounsfield_units_in_a_model_of_pictures_and_the_other_way_round_are_told(seed):
    assert flags_of(computed(seed)[None], SONOGRAMS) == {OUT_OF_RANGE}
    assert flags_of(ultrasound(seed)[None] / 255, BODIES, HOUNSFIELD) == {OUT_OF_RANGE}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("offset", [-1024, 1024])
def test_ct_without_its_offset_or_with_it_twice_is_told(seed, offset):
    assert flags_of(computed(seed)[None] + offset, BODIES, HOUNSFIELD) == {OUT_OF_RANGE}


@pytest.mark.parametrize("seed", range(5))
def test_a_crop_within_the_body_a_padded_circle_and_air_at_the_ends_are_ordinary_ct(seed):
    air = np.random.default_rng(seed).normal(-1000, 15, (SIDE, SIDE))
    padded = computed(seed)
    padded[np.hypot(*(np.mgrid[:SIDE, :SIDE] - 31.5)) > 31] = -3024
    for slices in ([computed(seed, side=24)], [padded], [air, computed(seed), air]):
        assert not flags_of(slices, BODIES, HOUNSFIELD)


def test_one_slice_of_a_series_on_another_scale_is_told_by_itself():
    slices = [ultrasound(0), ultrasound(1) * 257, ultrasound(2)]
    manifest = make_manifest(training=UNKNOWN.model_copy(update={"seen": SONOGRAMS}))
    assert compare_with(manifest)(make_scan(np.stack(slices))).outside == {1}


def test_where_each_image_has_its_own_window_no_scale_is_outside():
    assert not flags_of(ultrasound(0)[None] * 257, SONOGRAMS, Window(kind="image"))


def test_a_model_that_does_not_know_its_range_tells_what_hardly_meets_its_window():
    assert flags_of(computed(0, side=24)[None] + 3000, None) == {OUT_OF_RANGE}
    assert not flags_of(ultrasound(0)[None], None)
    assert not flags_of(computed(0)[None], None, Window(low=-160, high=240))


@pytest.mark.parametrize(
    ("known", "scan", "told"),
    [
        ({"modalities": {"US": 9}}, {"modality": "CT"}, True),
        ({"modalities": {"US": 9, "CT": 1}}, {"modality": "CT"}, False),
        ({"modalities": {"DX": 9, "CR": 1}}, {"modality": "DX"}, False),
        ({"modalities": {"CR": 9}}, {"modality": "DX"}, False),
        # Neither a picture nor NIfTI names its modality, and "other" is no modality.
        ({"modalities": {"US": 9}}, {"modality": ""}, False),
        ({"modalities": {"US": 9}}, {"modality": "OT"}, False),
        ({"modalities": {"": 9}}, {"modality": "CT"}, False),
        ({"modalities": {"": 1, "US": 9}}, {"modality": "CT"}, False),
        ({}, {"modality": "CT"}, False),
        ({"units": {"HU": 9}}, {"modality": "CT", "flags": ("NOT_HU",)}, True),
        ({"units": {"HU": 9}}, {"modality": "CT"}, False),
        ({"units": {"": 9}}, {"modality": "CT"}, False),
    ],
)
def test_a_scan_is_of_another_modality_only_where_both_are_known(known, scan, told):
    found = flags_of(ultrasound(0)[None], Seen(**known), **scan)
    assert found == ({OTHER_MODALITY} if told else set())


def test_colours_are_told_where_training_had_none_but_a_coloured_scale_is_not():
    grey = np.stack([ultrasound(0)] * 3, -1)[None]
    scaled, doppler = grey.copy(), grey.copy()
    scaled[:, :, :2, 0] = 255
    doppler[:, 20:40, 20:40, 2] = 255
    known = Seen(colours={"grey": 9})
    assert not flags_of(scaled, known)
    assert flags_of(doppler, known) == {OTHER_MODALITY}
    assert flags_of(ultrasound(0)[None], Seen(colours={"colour": 9})) == {OTHER_MODALITY}


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """A picture in 8 bits and the same in 16."""
    folder = tmp_path / "scans"
    folder.mkdir()
    grey = ultrasound(0).astype(np.uint16)
    Image.fromarray(grey.astype(np.uint8)).save(folder / "a.png")
    Image.fromarray(grey * 257).save(folder / "b.png")
    return folder


@pytest.fixture
def knowing(tmp_path: Path) -> Path:
    training = UNKNOWN.model_copy(update={"seen": SONOGRAMS})
    return write_model(tmp_path / "model", training=training)


def test_flags_stand_in_both_tables_and_change_no_ratio(both, knowing, model, tmp_path):
    summary = run(knowing, tmp_path / "ratios.csv", both)
    assert (summary.exit_code, summary.unlike) == (0, 1)
    for table in summary.tables[:2]:
        told = {row["source"]: OUT_OF_RANGE in row["flags"].split(";") for row in rows(table)}
        assert told == {"a.png": False, "b.png": True}
    plain = run(model, tmp_path / "plain.csv", both)
    measured, without = ([row["ratio"] for row in rows(s.report)] for s in (summary, plain))
    assert measured == without


def test_a_strict_run_refuses_such_a_scan_and_measures_the_others(both, knowing, tmp_path):
    summary = run(knowing, tmp_path / "ratios.csv", both, strict=True)
    assert summary.exit_code == 8
    assert {row["source"] for row in rows(summary.report)} == {"a.png"}
    (refused,) = failures(summary.report)
    assert (refused["source"], refused["status"]) == ("b.png", "failed")
    assert "trained on" in refused["message"]
    assert "--strict" in refused["message"]


SIZES = Seen(
    pixel_mm=Extent(least=0.5, most=1.0),
    side_mm=Extent(least=250, most=400),
    side_px=Extent(least=256, most=512),
)


@pytest.mark.parametrize(
    ("shape", "pixel_mm", "told"),
    [
        ((512, 512), (0.8, 0.8), ""),
        ((512, 300), (0.3, 0.9), ""),  # half of the smallest, twice the largest are near
        ((300, 300), (0.8, 2.1), "pixels of 0.8 x 2.1 mm, trained on 0.5 to 1"),
        ((800, 800), (0.2, 0.5), "pixels of 0.2 x 0.5 mm, trained on 0.5 to 1"),
        ((1024, 512), (1.0, 1.0), "slices of 1024 x 512 mm, trained on 250 to 400"),
        ((100, 300), (0.8, 0.8), "slices of 80 x 240 mm, trained on 250 to 400"),
        ((600, 600), None, ""),
        ((1200, 600), None, "slices of 1200 x 600 pixels, trained on 256 to 512"),
        ((100, 300), None, "slices of 100 x 300 pixels, trained on 256 to 512"),
    ],
)
def test_pixels_and_slices_far_larger_or_smaller_than_in_training_are_told(shape, pixel_mm, told):
    manifest = make_manifest(
        training=UNKNOWN.model_copy(update={"seen": SIZES}), window=Window(kind="image")
    )
    slices = np.random.default_rng(0).random((2, *shape), np.float32)
    likeness = compare_with(manifest)(make_scan(slices, geometry=Geometry(pixel_mm=pixel_mm)))
    assert likeness.flags.get(OUT_OF_RANGE, "") == told
    assert likeness.outside == ({0, 1} if told else frozenset())


def test_where_a_training_image_did_not_state_its_pixel_size_slices_are_compared_in_pixels():
    sizes = SIZES.model_copy(update={"pixel_mm": None, "side_mm": None})
    own = Window(kind="image")
    apart = Geometry(pixel_mm=(5.0, 5.0))
    assert not flags_of(np.zeros((1, 400, 400)), sizes, own, geometry=apart)
    assert flags_of(np.zeros((1, 40, 400)), sizes, own, geometry=apart) == {OUT_OF_RANGE}


@pytest.mark.parametrize("window", [Window(low=0, high=255), Window(kind="image")])
def test_ct_never_passes_silently_through_a_model_of_8_bit_pictures(window):
    pictures = SONOGRAMS.model_copy(update={"units": {"": 40}, "modalities": {"": 40}})
    assert flags_of(computed(0)[None], pictures, window, modality="CT") == {OUT_OF_RANGE}
    # Volumes without a modality may have been CT, which their values of air show.
    volumes = BODIES.model_copy(update={"units": {"": 40}, "modalities": {"": 40}})
    assert not flags_of(computed(0)[None], volumes, Window(kind="image"), modality="CT")
