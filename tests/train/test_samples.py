"""Which slices a run keeps for its exports."""

import numpy as np

from wsseg.train.metrics import CaseCounts
from wsseg.train.report import SAMPLE_COUNT, choose_samples


def case(*predicted):
    nothing = np.zeros(len(predicted))
    return CaseCounts(
        row=2,
        predicted=np.array(predicted, np.float64),
        marked=nothing,
        found=nothing,
        ratio=nothing,
        known=nothing * np.nan,
    )


def test_a_rare_class_is_among_the_samples():
    cases = [case(50, 0) for _ in range(100)]
    cases[61] = cases[62] = case(50, 4)
    chosen = choose_samples(cases)
    assert {61, 62} <= set(chosen)
    assert len(chosen) == SAMPLE_COUNT
    assert chosen == sorted(set(chosen))


def test_samples_are_spread_where_nothing_is_found_and_all_where_there_are_few():
    chosen = choose_samples([case(0) for _ in range(100)])
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 99, SAMPLE_COUNT)
    assert choose_samples([case(1), case(0), case(0)]) == [0, 1, 2]
