"""Rows find the slices they speak of, and those that find none say why."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.serve.conftest import make_scan
from wsseg.imaging import Failure, FileRef, Scan, ScanRef, SliceId, TableError
from wsseg.serve.known_ratios import KnownRow, KnownSlices
from wsseg.serve.recover import KnownRatio


def row(line: int, source: str, place: int = 0, ratio: float = 0.1, **where: int) -> KnownRow:
    known = KnownRatio(line, f"class {place}", place, ratio)
    return KnownRow(line, source, where.get("slice"), where.get("frame"), (known,))


def ref(*sources: str, volume: int | None = None) -> ScanRef:
    return ScanRef("volume", tuple(FileRef(Path(s), s) for s in sources), volume=volume)


def scan(*slices: SliceId) -> Scan:
    made = make_scan(np.zeros((len(slices), 2, 2)), slices[0].source)
    return replace(made, slices=slices)


def reasons(known: KnownSlices) -> dict[str, str]:
    return {failure.message.split(":")[0]: failure.reason for failure in known.failures()}


def lines(known) -> dict[int, list[int]]:
    return {index: [one.line for one in of_slice] for index, of_slice in known.items()}


def recovered(known: KnownSlices, found) -> None:
    known.recovered(one.line for of_slice in found.values() for one in of_slice)


def test_slices_are_found_by_source_slice_and_frame():
    rows = [row(2, "a"), row(3, "v", slice=1), row(4, "m", frame=2), row(5, "m", frame=1, slice=1)]
    known = KnownSlices("known.csv", rows, [ref("a"), ref("v"), ref("m")])
    assert lines(known(scan(SliceId("a")))) == {0: [2]}
    assert lines(known(scan(SliceId("v"), SliceId("v"), SliceId("v")))) == {1: [3]}
    # frames may be stored in another order than slices
    assert lines(known(scan(SliceId("m", frame=2), SliceId("m", frame=1)))) == {0: [4], 1: [5]}


def test_each_file_of_a_series_is_found_by_its_own_name():
    known = KnownSlices("known.csv", [row(2, "s/2"), row(3, "1")], [ref("s/1", "s/2", "s/3")])
    found = known(scan(SliceId("s/1"), SliceId("s/2"), SliceId("s/3")))
    assert lines(found) == {0: [3], 1: [2]}


def test_classes_of_one_slice_may_stand_in_rows_of_their_own():
    rows = [row(2, "a", place=0), row(3, "a", place=1)]
    known = KnownSlices("known.csv", rows, [ref("a")])
    assert lines(known(scan(SliceId("a")))) == {0: [2, 3]}


def test_a_row_counts_as_left_over_until_its_mask_is_there():
    known = KnownSlices("known.csv", [row(2, "a"), row(3, "b")], [ref("a"), ref("b")])
    found = known(scan(SliceId("a")))
    assert reasons(known) == {
        "known.csv, line 2": "known_not_measured",
        "known.csv, line 3": "known_not_measured",
    }
    recovered(known, found)
    assert reasons(known) == {"known.csv, line 3": "known_not_measured"}


def test_rows_without_a_slice_say_why():
    rows = [row(2, "elsewhere"), row(3, "v"), row(4, "v", slice=9), row(5, "broken")]
    broken = Failure("broken", "truncated", "ends early")
    known = KnownSlices("known.csv", rows, [ref("v"), broken])
    assert known(scan(SliceId("v"), SliceId("v"))) == {}
    assert reasons(known) == {
        "known.csv, line 2": "known_no_source",
        "known.csv, line 3": "known_several_slices",
        "known.csv, line 4": "known_no_slice",
        "known.csv, line 5": "known_not_measured",
    }
    assert [failure.source for failure in known.failures()] == ["elsewhere", "v", "v", "broken"]
    assert {failure.status for failure in known.failures()} == {"failed"}


def test_a_time_volume_is_told_by_its_frame_and_the_others_do_not_claim_the_row():
    rows = [row(2, "t.nii", frame=1, slice=0)]
    known = KnownSlices("known.csv", rows, [ref("t.nii", volume=v) for v in range(3)])
    found = [known(scan(SliceId("t.nii", frame=v), SliceId("t.nii", frame=v))) for v in range(3)]
    assert [lines(one) for one in found] == [{}, {0: [2]}, {}]
    recovered(known, found[1])
    assert known.failures() == ()


def test_the_same_slice_named_in_two_ways_is_recovered_once():
    rows = [row(2, "m", slice=1), row(3, "m", frame=1)]
    known = KnownSlices("known.csv", rows, [ref("m")])
    found = known(scan(SliceId("m", frame=2), SliceId("m", frame=1)))
    recovered(known, found)
    assert lines(found) == {1: [2]}
    assert reasons(known) == {"known.csv, line 3": "known_repeated"}


def test_a_path_that_fits_whole_is_meant_before_a_name():
    known = KnownSlices("known.csv", [row(2, "x.png")], [ref("p/x.png"), ref("x.png")])
    assert known(scan(SliceId("p/x.png"))) == {}
    assert lines(known(scan(SliceId("x.png")))) == {0: [2]}


def test_a_name_that_is_no_valid_text_is_found_as_the_tables_show_it():
    stored = "caf\udce9.png"  # a name in an old encoding
    known = KnownSlices("known.csv", [row(2, r"caf\udce9.png")], [ref(stored)])
    assert lines(known(scan(SliceId(stored)))) == {0: [2]}


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([row(2, "x.png")], "line 2: 2 files are called so: give the path"),
        ([row(2, "t.nii", slice=0)], "line 2: its file has 2 volumes: fill in the column frame"),
        ([row(2, "a"), row(3, "a")], "line 3: the same class of the same slice as in line 2"),
        ([row(2, "b.png"), row(3, "p/b.png")], "line 3: the same class of the same slice as in"),
        ([row(2, "a", 0, 0.6), row(3, "a", 1, 0.6)], "line 3: ratios of this slice sum to 1.2"),
    ],
)
def test_rows_that_cannot_be_meant_so_are_refused_before_anything_is_read(rows, fault: str):
    volumes = [ref("t.nii", volume=0), ref("t.nii", volume=1)]
    found = [ref("p/x.png"), ref("q/x.png"), ref("a"), ref("p/b.png"), *volumes]
    with pytest.raises(TableError, match=f"known.csv, {fault}"):
        KnownSlices("known.csv", rows, found)


def test_two_columns_of_one_class_are_refused():
    twice = row(2, "a")
    twice = replace(twice, ratios=twice.ratios * 2)
    with pytest.raises(TableError, match=r"line 2: .* in two columns: keep one"):
        KnownSlices("known.csv", [twice], [ref("a")])
