"""The text of a cell as a value."""

import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st

from wsseg.train.case_cells import CellError, parse_points, parse_ratio


@given(st.floats(0, 1))
def test_a_ratio_survives_being_written(ratio):
    assert parse_ratio(str(ratio)) == ratio


@given(st.text())
def test_any_text_is_a_ratio_or_a_fault(text):
    with contextlib.suppress(CellError):
        ratio = parse_ratio(text)
        assert ratio is None or 0 <= ratio <= 1


@given(st.lists(st.tuples(st.integers(), st.integers(), st.integers(1, 3))))
def test_points_survive_being_written(points):
    assert parse_points(json.dumps(points), 3) == tuple(points)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_points_or_a_fault(value):
    with contextlib.suppress(CellError):
        points = parse_points(json.dumps(value), 2)
        assert all(len(point) == 3 and 1 <= point[2] <= 2 for point in points)
