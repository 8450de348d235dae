"""Batches across scans: the way slices are batched changes no number and loses no scan."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serve.conftest import BROKEN_VALUE, LEVELS, ThresholdEngine, make_scan
from wsseg.imaging import Failure, FileRef, Scan, ScanRef, luminance
from wsseg.serve.batching import GREY_AS_RGB, LUMINANCE, Limits, Segmenter
from wsseg.serve.empty_slices import Skip, skip_none
from wsseg.serve.engines.base import Prediction
from wsseg.serve.inspection import inspect
from wsseg.serve.measure import MeasuredScan

SHAPES = ((6, 8), (8, 6), (1, 1))
ANY = Limits()

shapes = st.tuples(st.integers(0, 5), st.sampled_from(SHAPES))
limits = st.builds(
    Limits, slices=st.integers(1, 7), scans=st.integers(1, 5), nbytes=st.integers(0, 2000)
)


def make_scans(sizes) -> list[Scan]:
    random = np.random.default_rng(len(sizes))
    return [
        make_scan(random.integers(0, 256, (count, *plane)), name=f"scan{index}")
        for index, (count, plane) in enumerate(sizes)
    ]


def segment(
    scans, engine, limits: Limits = ANY, channels: int = 1, skip: Skip = skip_none, **fields
) -> Iterator[Any]:
    run = Segmenter(
        engine=engine, classes=2, channels=channels, limits=limits, keep_labels=True, **fields
    )
    return run(item if isinstance(item, Failure) else inspect(item, skip) for item in scans)


@given(sizes=st.lists(shapes, max_size=10), limits=limits)
def test_every_slice_gets_its_own_areas_whatever_the_batches(sizes, limits):
    scans = make_scans(sizes)
    engine = ThresholdEngine()
    found = list(segment(scans, engine, limits))
    assert [item.scan.ref for item in found] == [scan.ref for scan in scans]
    assert max((shape[0] for shape in engine.shapes), default=0) <= limits.slices
    for item, scan in zip(found, scans, strict=True):
        masks = np.asarray(scan.pixels)[:, None] >= LEVELS.reshape(1, 2, 1, 1)
        np.testing.assert_array_equal(item.areas.pixel, masks.sum((2, 3)))
        np.testing.assert_array_equal(item.areas.foreground, masks.any(1).sum((1, 2)))
        np.testing.assert_array_equal(item.labels, masks[:, 0] + masks[:, 1].astype(int))


@given(sizes=st.lists(shapes, max_size=10), limits=limits)
def test_batches_depend_on_the_scans_and_the_limits_alone(sizes, limits):
    first, second = ThresholdEngine(), ThresholdEngine()
    list(segment(make_scans(sizes), first, limits))
    list(segment(make_scans(sizes), second, limits))
    assert first.shapes == second.shapes


def test_slices_of_several_scans_fill_one_batch():
    engine = ThresholdEngine()
    list(segment(make_scans([(1, (6, 8))] * 8), engine, Limits(slices=8)))
    assert engine.shapes == [(8, 1, 6, 8)]


def test_a_huge_picture_makes_a_small_batch(monkeypatch):
    monkeypatch.setattr("wsseg.serve.batching.MOST_PIXELS", 250)
    engine = ThresholdEngine()
    pixels = np.arange(500).reshape(5, 10, 10)
    list(segment([make_scan(pixels)], engine, Limits(slices=8)))
    assert [shape[0] for shape in engine.shapes] == [2, 2, 1]


def test_a_lone_scan_does_not_wait_for_ever():
    """One odd-sized scan, then many others: it comes out long before the input ends."""
    drawn = 0

    def scans():
        nonlocal drawn
        for scan in make_scans([(1, (6, 8)), *[(1, (8, 6))] * 100]):
            drawn += 1
            yield scan

    stream = segment(scans(), ThresholdEngine(), Limits(slices=8, scans=10))
    assert next(stream).scan.ref.files[0].source == "scan0"
    assert drawn <= 11


def test_scans_that_wait_hold_no_more_bytes_than_allowed():
    drawn = 0

    def scans():
        nonlocal drawn
        for index in range(50):
            drawn += 1
            yield make_scan(np.zeros((1, 10, 10 + index)), name=str(index))

    allowed = 5 * 500
    for taken, _ in enumerate(segment(scans(), ThresholdEngine(), Limits(nbytes=allowed))):
        assert drawn - taken <= 6


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_a_slice_that_breaks_the_engine_costs_its_own_scan_only(batch: int):
    scans = make_scans([(2, (6, 8))] * 5)
    np.asarray(scans[2].pixels)[1, 0, 0] = BROKEN_VALUE
    found = list(segment(scans, ThresholdEngine(), Limits(slices=batch)))
    whole = list(segment(make_scans([(2, (6, 8))] * 5), ThresholdEngine()))
    assert [isinstance(item, MeasuredScan) for item in found] == [True, True, False, True, True]
    assert (found[2].source, found[2].reason) == ("scan2", "engine")
    assert "slice 1: could not be computed" in found[2].message
    for index in (0, 1, 3, 4):
        np.testing.assert_array_equal(found[index].areas.pixel, whole[index].areas.pixel)


def test_a_batch_too_large_for_the_memory_is_computed_in_parts():
    engine = ThresholdEngine()
    engine.most = 2
    found = list(segment(make_scans([(3, (6, 8))] * 5), engine, Limits(slices=8)))
    assert all(isinstance(item, MeasuredScan) for item in found)
    assert len(found) == 5


def test_an_answer_that_is_no_number_is_a_failure_of_that_scan():
    def engine(pixels):
        found = ThresholdEngine()(pixels)
        found.soft_areas[pixels[:, 0, 0, 0] == 1] = np.nan
        return found

    scans = [make_scan(np.full((2, 3, 3), value), str(value)) for value in (0, 1, 2)]
    found = list(segment(scans, engine))
    assert [isinstance(item, Failure) for item in found] == [False, True, False]
    assert found[1].reason == "not_finite"


def test_failures_of_reading_keep_their_place():
    first, second = make_scans([(1, (6, 8))] * 2)
    failure = Failure("broken", "reason", "message")
    found = list(segment([first, failure, second], ThresholdEngine()))
    assert [item.scan.ref if isinstance(item, MeasuredScan) else item for item in found] == [
        first.ref,
        failure,
        second.ref,
    ]


def test_all_slices_are_told_as_done_once():
    told: list[int] = []
    scans = make_scans([(5, (6, 8)), (3, (8, 6)), (4, (6, 8))])
    np.asarray(scans[0].pixels)[0, 0, 0] = BROKEN_VALUE
    list(segment(scans, ThresholdEngine(), Limits(slices=2), on_slices=told.append))
    assert sum(told) == 12


def test_colour_becomes_luminance_for_a_grey_network_and_is_flagged():
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 6, 8, 3)).astype(np.float32)
    seen: list[np.ndarray] = []
    (found,) = segment([make_scan(pixels)], _noting(seen))
    np.testing.assert_allclose(seen[0][0, 0], luminance(pixels[0]), rtol=1e-6)
    assert LUMINANCE in found.scan.flags


def test_grey_is_repeated_for_a_colour_network_and_is_flagged():
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 6, 8)).astype(np.float32)
    seen: list[np.ndarray] = []
    (found,) = segment([make_scan(pixels)], _noting(seen), channels=3)
    np.testing.assert_array_equal(seen[0][0], np.stack([pixels[0]] * 3))
    assert GREY_AS_RGB in found.scan.flags


def test_what_fits_the_network_is_not_flagged():
    grey, colour = np.zeros((1, 6, 8)), np.zeros((1, 6, 8, 3))
    (from_grey,) = segment([make_scan(grey)], ThresholdEngine())
    (from_colour,) = segment([make_scan(colour)], ThresholdEngine(), channels=3)
    assert from_grey.scan.flags == from_colour.scan.flags == ()


def test_the_colours_of_a_slice_reach_the_network_in_order():
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 6, 8, 3)).astype(np.float32)
    seen: list[np.ndarray] = []
    list(segment([make_scan(pixels)], _noting(seen), channels=3))
    np.testing.assert_array_equal(seen[0][0], pixels[0].transpose(2, 0, 1))


@pytest.mark.parametrize("edge", [(0, 3), (5, 3), (2, 0), (2, 7)])
def test_a_mask_at_any_edge_is_told(edge: tuple[int, int]):
    pixels = np.zeros((2, 6, 8))
    pixels[0][edge] = 150
    pixels[1, 2, 3] = 255
    (found,) = segment([make_scan(pixels)], ThresholdEngine())
    assert found.areas.border.tolist() == [[True, False], [False, False]]


def _noting(seen: list[np.ndarray]):
    def engine(pixels: np.ndarray) -> Prediction:
        seen.append(pixels)
        return ThresholdEngine()(pixels)

    return engine


def test_a_batch_that_frees_enough_leaves_the_others_to_fill():
    engine = ThresholdEngine()
    scans = make_scans([(1, (8, 6)), *[(1, (6, 8))] * 8])
    assert len(list(segment(scans, engine, Limits(slices=4, scans=3)))) == 9
    assert engine.shapes == [(1, 1, 8, 6), (4, 1, 6, 8), (4, 1, 6, 8)]


def test_every_file_of_a_scan_that_the_engine_cannot_compute_is_told_once():
    ref = ScanRef("dicom", tuple(FileRef(Path(name), name) for name in ("0", "1", "2")))
    cut = Failure("1", "truncated", "ends early")
    scan = make_scan(np.full((2, 3, 3), BROKEN_VALUE), ref=ref, failures=(cut,))
    found = list(segment([scan], ThresholdEngine()))
    assert [(failure.source, failure.reason) for failure in found] == [
        ("1", "truncated"),
        ("0", "engine"),
        ("2", "engine"),
    ]
