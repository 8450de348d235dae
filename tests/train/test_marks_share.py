"""Tables in which only a share of the cases is marked, or the ratios err."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.test_marks_table import disc, rows_of, save
from wsseg.imaging import WssegError
from wsseg.train.cases import Case, case_marks, case_mask, read_cases
from wsseg.train.simulate import MarkOptions, erode_mark, marked_rows, simulate_marks


@pytest.fixture
def many(tmp_path):
    """30 cases of one picture each, two a group, 20 for training."""
    lines = ["image,mask,group,split"]
    for number in range(30):
        save(tmp_path / f"in/i{number}.png", np.full((32, 32), 90))
        save(tmp_path / f"in/m{number}.png", disc(4 + number % 5))
        split = "train" if number < 20 else "val"
        lines.append(f"i{number}.png,m{number}.png,p{number // 2},{split}")
    (tmp_path / "in/cases.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "in/cases.csv"


@pytest.mark.parametrize(("share", "train", "val"), [(40.0, 8, 4), (0.0, 0, 0), (100.0, 20, 10)])
def test_a_share_of_each_split_is_marked_and_the_others_keep_their_ratio(
    many, tmp_path, share, train, val
):
    table = read_cases(simulate_marks(many, tmp_path / "out", options=MarkOptions(share=share)))
    marked = [case.marks is not None for case in table.part("train")]
    assert sum(marked) == train
    assert marked[::2] == marked[1::2], "groups are marked as a whole"
    assert sum(case.marks is not None for case in table.part("val")) == val
    for case in table.cases:
        mask = case_mask(case, 1)
        assert mask is not None
        assert case.ratios == (mask.mean(),)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "column"), [("scribble", "marks"), ("box", "box")])
def test_cases_outside_the_share_keep_what_they_had(many, tmp_path, caplog, kind, column):
    first = simulate_marks(many, tmp_path / "first")
    boxed = simulate_marks(first, tmp_path / "boxed", options=MarkOptions("box"))
    caplog.clear()
    with caplog.at_level(logging.INFO, "wsseg.train"):
        few = simulate_marks(boxed, tmp_path / "few", options=MarkOptions(kind, share=20.0))
    assert "earlier marks of 6 replaced; 24 others keep the marks they had" in caplog.text
    rows = rows_of(few)
    assert all(row["marks"] and row["box"] for row in rows)
    kinds = [row["mark_kind"] for row in rows]
    assert kinds.count("eroded") == (24 if column == "marks" else 30)
    for case, kind_of in zip(read_cases(few).cases, kinds, strict=True):
        own = case_mask(case, 1)
        assert own is not None
        if kind_of == "eroded":
            assert np.array_equal(case_marks(case) == 1, erode_mark(own == 1, 8.0))


def test_the_closing_line_tells_what_was_marked_and_how_ratios_err(many, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "wsseg.train"):
        options = MarkOptions(share=40.0, ratio_noise=20.0)
        simulate_marks(many, tmp_path / "out", options=options)
    (record,) = caplog.records
    assert record.getMessage() == (
        "marked 12 of 30 cases (train 8, val 4); ratios with up to 20 % error"
    )


def test_fractions_where_percents_are_asked_for_are_warned_of(many, tmp_path, caplog):
    simulate_marks(many, tmp_path / "a", options=MarkOptions(share=0.1, ratio_noise=0.2))
    assert "share 0.1 is read as 0.1 percent; if the fraction 0.1 is meant, write 10" in caplog.text
    assert "ratio noise 0.2 is read as 0.2 percent" in caplog.text
    caplog.clear()
    simulate_marks(many, tmp_path / "b", options=MarkOptions(share=1.0), percent=0.5)
    assert [record.getMessage().partition(" is")[0] for record in caplog.records] == ["percent 0.5"]


def test_a_share_that_marks_nothing_is_warned_of(many, tmp_path, caplog):
    for number in range(30):
        save(many.parent / f"m{number}.png", np.zeros((32, 32)))
    simulate_marks(many, tmp_path / "none", options=MarkOptions(share=0.0))
    assert not caplog.text
    simulate_marks(many, tmp_path / "empty")
    assert "no case was marked" in caplog.text


groups = st.lists(st.integers(0, 8), min_size=1, max_size=40)


@given(groups, st.tuples(st.floats(0, 100), st.floats(0, 100)).map(sorted), st.integers(0, 9))
def test_a_larger_share_of_the_cases_holds_the_smaller_one(numbers, pair, seed):
    cases = [
        Case(row, Path(f"{row}.png"), (None,), group=f"p{number}")
        for row, number in enumerate(numbers)
    ]
    small, large = (marked_rows(cases, share, seed) for share in pair)
    assert small <= large
    assert marked_rows(cases, 100.0, seed) == set(range(len(cases)))
    assert not marked_rows(cases, 0.0, seed)


def test_noisy_ratios_err_by_at_most_what_is_asked_and_leave_the_marks_alone(many, tmp_path):
    exact = rows_of(simulate_marks(many, tmp_path / "exact"))
    noisy = rows_of(simulate_marks(many, tmp_path / "noisy", options=MarkOptions(ratio_noise=20.0)))
    ratios = [[float(row["ratio"]) for row in rows] for rows in (exact, noisy)]
    factors = np.divide(ratios[1], ratios[0])
    assert 0.8 <= factors.min() < 0.9
    assert 1.1 < factors.max() <= 1.2
    for row in exact:
        name = row["marks"]
        assert (tmp_path / "exact" / name).read_bytes() == (tmp_path / "noisy" / name).read_bytes()


def test_a_stated_ratio_errs_too_and_an_unknown_one_stays_unknown(many, tmp_path):
    header, *lines = many.read_text(encoding="utf-8").splitlines()
    stated = [f"{header},ratio", f"{lines[0]},0.05", *(f"{line}," for line in lines[1:])]
    many.write_text("\n".join(stated) + "\n", encoding="utf-8")
    path = simulate_marks(many, tmp_path / "out", options=MarkOptions(ratio_noise=10.0))
    known, *unknown = [row["ratio"] for row in rows_of(path)]
    assert float(known) != 0.05
    assert float(known) == pytest.approx(0.05, rel=0.1)
    assert set(unknown) == {""}


def test_ratios_too_wrong_for_their_masks_need_the_masks_left_out(many, tmp_path):
    options = MarkOptions(ratio_noise=40.0)
    with pytest.raises(WssegError, match="drop the masks"):
        simulate_marks(many, tmp_path / "out", options=options)
    path = simulate_marks(many, tmp_path / "out", options=options, keep_masks=())
    assert len(read_cases(path).cases) == 30
