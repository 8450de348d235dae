"""Ratios as people write them: one unit for a column, never cell by cell."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsseg.imaging.fractions import Column, fractions, number_in, sizes


def column(*texts: str, name: str = "ratio", **arguments) -> Column:
    cells = tuple((line, text) for line, text in enumerate(texts, 2) if text)
    return Column(name, cells, remedy="ratio_percent", **arguments)


def read(*columns: Column) -> list[list[float]]:
    judged = fractions(columns, 1)
    assert not judged.faults
    return [list(values.values()) for values in judged.values]


@given(st.floats(0, 1))
def test_a_fraction_survives_being_written(ratio: float):
    assert read(column(repr(ratio))) == [[ratio]]


@given(st.text(), st.booleans())
def test_any_text_is_a_fraction_or_a_fault(text: str, percent: bool):
    judged = fractions([column(text, percent=percent)], 1)
    assert judged.faults or all(0 <= value <= 1 for value in judged.values[0].values())


def test_a_column_that_is_called_percent_is_percent_throughout():
    assert read(column("4,23", "0,63", "12 %", "0", percent=True)) == [[0.0423, 0.0063, 0.12, 0.0]]


def test_percent_signs_in_all_cells_but_zeros_make_a_column_percent():
    assert read(column("4.23%", "0.63 %", "0", "", "100%")) == [[0.0423, 0.0063, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        (("4.23", "0.63"), "1 of 2 cells are above 1, the largest 4.23 in line 2"),
        (("0.63", "4,23%"), "1 cells have a percent sign, as in line 3, and 1 have none"),
    ],
)
def test_a_unit_that_cannot_be_told_is_one_fault_of_the_column(texts, fault):
    (told,) = fractions([column(*texts)], 1).faults
    assert (told.line, fault in told.message, "ratio_percent" in told.message) == (1, True, True)


def test_columns_of_shares_have_one_unit():
    named, plain = column("4.2", name="ratio_percent:a", percent=True), column("0.63", name="b")
    (told,) = fractions([named, plain], 1).faults
    assert "ratio_percent:a is in percent and b is not" in told.message
    assert read(named, column("0", name="b")) == [[0.042], [0.0]]
    assert read(named, column("1.3", name="b", bounded=False)) == [[0.042], [1.3]]


@pytest.mark.parametrize(
    ("cells", "doubt"),
    [
        (column("0.04", "0.05", "0.0003", "0.06"), "1 cells are 50 times .* first in line 4"),
        (column("0.63", "0.9", "0.7"), "the median of ratio is 0.7, more than half"),
        (column("0.00001"), "less than a ten-thousandth"),
        (
            column("0.04", "0.3", percent=True),
            "is read as percent, as it is called, though no cell is above 1: its median is 0.0017",
        ),
    ],
)
def test_what_may_be_in_another_unit_is_doubted(cells: Column, doubt: str):
    (told,) = fractions([cells], 1).doubts
    assert re.search(doubt, told)


def test_usual_ratios_are_not_doubted():
    cells = [column("0.0423", "0.0063", "0.31", "0"), column("4.2", "31", "0.3", percent=True)]
    assert not any(fractions([each], 1).doubts for each in cells)
    assert not fractions([column("0.9", exact=False)], 1).doubts
    assert not fractions([cells[1], column("0.4", "0.6", name="b", percent=True)], 1).doubts


def test_areas_keep_their_decimals_and_thousands_are_refused():
    assert sizes([column("1234", "12,5", "0.25")], 1).values[0] == {2: 1234, 3: 12.5, 4: 0.25}
    (told,) = sizes([column("1,234", "12,000")], 1).faults
    assert "1,234 (line 2) may have a decimal comma" in told.message
    (told,) = sizes([column("-3")], 1).faults
    assert "-3 is no area" in told.message


def test_no_number_is_made_of_what_is_none():
    assert [number_in(text) for text in ("1.234,5", "nan", "1e999", "", "0x1", "1 2")] == [None] * 6
