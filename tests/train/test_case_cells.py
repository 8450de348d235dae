"""The text of a cell as a value."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsseg.train.cases import (
    CellError,
    parse_box,
    parse_extremes,
    parse_mark_kind,
    parse_place,
    parse_points,
    parse_present,
    parse_split,
)

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.lists(st.tuples(st.integers(), st.integers(), st.integers(1, 3))))
def test_points_survive_being_written(points):
    assert parse_points(json.dumps(points), 3) == tuple(points)


@given(ANY_JSON)
def test_any_json_is_points_or_a_fault(value):
    with contextlib.suppress(CellError):
        points = parse_points(json.dumps(value), 2)
        assert all(len(point) == 3 and point[2] in (1, 2, 255) for point in points)


@given(ANY_JSON | st.lists(st.integers(-2, 5) | st.floats(), min_size=2, max_size=4))
def test_any_json_is_a_box_of_some_pixels_or_a_fault(value):
    with contextlib.suppress(CellError):
        box = parse_box(json.dumps(value))
        assert box is not None
        assert 0 <= box.top < box.bottom
        assert 0 <= box.left < box.right


@given(ANY_JSON | st.lists(st.integers() | st.floats(), min_size=2, max_size=2))
def test_any_json_is_a_place_or_a_fault(value):
    with contextlib.suppress(CellError):
        place = parse_place(json.dumps(value))
        assert place is not None
        assert all(0 <= number < float("inf") for number in place)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9))
def test_outermost_pixels_are_extremes_in_any_order(region):
    by_column = sorted(region, key=lambda pixel: pixel[1])
    sides = (min(region), by_column[0], max(region), by_column[-1])
    for order in (sides, sides[::-1]):
        assert parse_extremes(json.dumps(order)) == order


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (parse_box, "[1, 2, 3]", "not [top, left, bottom, right] in whole pixels"),
        (parse_box, "[[0, 0, 1, 1], [2, 2, 3, 3]]", "give one box, around all"),
        (parse_box, "[0, 0, 1.5, 1]", "in whole pixels"),
        (parse_box, "[0, 3, 5, 3]", "holds no pixel"),
        (parse_box, "[-1, 0, 5, 3]", "holds no pixel"),
        (parse_extremes, "[[0, 0], [1, 1], [2, 2]]", "not a JSON list of four pixels"),
        (parse_extremes, "[[0, 5], [5, 0], [9, 5], [5, 4]]", "[5, 4] is outermost in no direction"),
        (parse_place, "[1]", "not [rows, columns] in pixels"),
        (parse_place, "[1, -2]", "write two numbers from 0"),
        (parse_place, "[1, true]", "write two numbers from 0"),
        (parse_present, "yes", "yes is no tag: write 1 (in the picture), 0 (not in it)"),
        (parse_mark_kind, "circle", "circle is no kind of mark: write eroded, disc, point, scri"),
    ],
)
def test_a_cell_that_cannot_be_read_says_what_to_write(parse, text, expected):
    with pytest.raises(CellError) as caught:
        parse(text)
    assert expected in str(caught.value)


def test_what_is_true_and_splits_may_have_any_capitals():
    assert [parse_present(text) for text in ("TRUE", "False", "1")] == [True, False, True]
    assert [parse_split(text) for text in ("Train", "VAL")] == ["train", "val"]


@pytest.mark.parametrize("text", ["[0, 1, 2, 3]", "[[0, 1, 2, 3]]"])
def test_a_box_may_stand_in_a_list_of_its_own(text):
    assert parse_box(text) == (0, 1, 2, 3)


@pytest.mark.parametrize("parse", [parse_box, parse_place, parse_present, parse_mark_kind])
def test_an_empty_cell_is_unknown(parse):
    assert parse("") is None
