"""Equal slices are computed once, with the result of computing each."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.serve.conftest import BROKEN_VALUE, ThresholdEngine, make_scan
from tests.serve.test_batching import segment
from wsseg.imaging import Failure, Scan
from wsseg.serve.batching import Limits
from wsseg.serve.measure import pack, unpack
from wsseg.serve.recover import KnownRatio

ALL_APART = Limits(remembered=0)


def scans_of(plan: list[list[int]]) -> list[Scan]:
    """Scans whose slices are given by seeds: the same seed, the same pixels."""
    return [
        make_scan(
            np.stack([np.random.default_rng(seed).integers(0, 256, (6, 8)) for seed in seeds]),
            name=f"scan{number}",
        )
        for number, seeds in enumerate(plan)
    ]


def computed(engine: ThresholdEngine) -> int:
    return sum(shape[0] for shape in engine.shapes)


plans = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), min_size=1, max_size=6)
limits = st.builds(
    Limits,
    slices=st.integers(1, 5),
    scans=st.integers(1, 4),
    nbytes=st.integers(0, 2000),
    remembered=st.integers(0, 6000),
)


@given(plan=plans, limits=limits)
def test_results_are_those_of_computing_each(plan, limits: Limits):
    once, each = ThresholdEngine(), ThresholdEngine()
    found = list(segment(scans_of(plan), once, limits))
    wanted = list(segment(scans_of(plan), each, replace(limits, remembered=0)))
    assert computed(each) == sum(map(len, plan)) >= computed(once)
    for one, other in zip(found, wanted, strict=True):
        assert one.scan.ref == other.scan.ref
        np.testing.assert_array_equal(one.areas.pixel, other.areas.pixel)
        np.testing.assert_array_equal(one.areas.border, other.areas.border)
        np.testing.assert_array_equal(one.areas.foreground, other.areas.foreground)
        np.testing.assert_array_equal(one.labels, other.labels)


@given(plan=plans)
def test_within_reach_each_slice_is_computed_once(plan):
    engine = ThresholdEngine()
    list(segment(scans_of(plan), engine, Limits(slices=2)))
    assert computed(engine) == len({seed for seeds in plan for seed in seeds})


def test_equal_bytes_of_another_shape_are_another_slice():
    engine = ThresholdEngine()
    flat = np.arange(48.0)
    list(segment([make_scan(flat.reshape(1, 6, 8)), make_scan(flat.reshape(1, 8, 6))], engine))
    assert sorted(engine.shapes) == [(1, 1, 6, 8), (1, 1, 8, 6)]


def test_memory_of_answers_is_bounded():
    engine = ThresholdEngine()
    list(segment(scans_of([[0, 1, 2, 3, 0]]), engine, Limits(slices=1, remembered=3 * 1100)))
    assert computed(engine) == 5


def test_a_slice_that_fails_fails_in_every_scan_and_is_tried_again_later():
    broken = np.full((1, 6, 8), BROKEN_VALUE)
    first, second, other = (make_scan(broken, name) for name in ("a", "b", "c"))
    engine = ThresholdEngine()
    found = list(segment([first, second], engine, Limits(slices=8)))
    assert [(item.source, item.reason) for item in found] == [("a", "engine"), ("b", "engine")]
    found = list(
        segment([first, *scans_of([[1], [2]]), other], ThresholdEngine(), Limits(slices=1))
    )
    assert [isinstance(item, Failure) for item in found] == [True, False, False, True]


def test_known_ratios_of_equal_slices_are_all_recovered_and_measure_the_same():
    def known(scan):
        return {index: (KnownRatio(2, "bright", 0, 0.25),) for index in (1, 2)}

    plain = list(segment(scans_of([[0, 0, 1], [0, 1, 1]]), ThresholdEngine(), Limits(slices=2)))
    found = list(
        segment(scans_of([[0, 0, 1], [0, 1, 1]]), ThresholdEngine(), Limits(slices=2), known=known)
    )
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_array_equal(one.areas.pixel, other.areas.pixel)
        assert {i: m[0].pixels for i, m in one.recovered.masks.items()} == {1: 12, 2: 12}


def test_what_is_on_file_for_a_slice_changes_no_batch():
    def known(scan):
        return {0: (KnownRatio(2, "bright", 0, 0.25),)}

    def batches(**fields) -> list[int]:
        engine = ThresholdEngine()
        list(segment(scans_of([[0, 1], [2, 3]]), engine, Limits(slices=3), **fields))
        return [shape[0] for shape in engine.shapes]

    assert batches() == batches(known=known) == [3, 1]


@given(
    classes=st.integers(1, 255),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 9),
)
def test_a_packed_label_map_is_whole_when_unpacked(classes: int, shape, seed: int):
    labels = np.random.default_rng(seed).integers(0, classes + 1, shape).astype(np.uint8)
    packed = pack(labels, classes)
    assert packed.nbytes == classes.bit_length() * -(-labels.size // 8)
    np.testing.assert_array_equal(unpack(packed, shape), labels)
