"""What a data set's areas and pictures say of where a class may lie."""

import math
from functools import cache

import numpy as np
import pytest

from wsseg.train.targets import (
    LEAST_CASES,
    POLARITIES,
    SIDE,
    Polarity,
    Proposals,
    localise_class,
    on_blob_grid,
)

SIZE = 40
COUNT = 24


def disc(row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.indices((SIZE, SIZE))
    inside: np.ndarray = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return inside


@cache
def regions(count: int) -> list[np.ndarray]:
    """Discs of uneven sizes at uneven places."""
    random = np.random.default_rng(0)
    drawn = random.uniform((12, 12, 4), (28, 28, 9), (count, 3))
    return [disc(row, column, radius) for row, column, radius in drawn]


def pictures(polarity: Polarity, contrasts: list[float] | None = None) -> list[np.ndarray]:
    """Noise with a dark or bright region in each."""
    random = np.random.default_rng(1)
    steps = contrasts or [0.25] * COUNT
    return [
        random.normal(0.5, 0.08, region.shape) + polarity * step * region
        for region, step in zip(regions(COUNT), steps, strict=True)
    ]


def areas() -> list[float]:
    return [float(region.mean()) for region in regions(COUNT)]


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("polarity", POLARITIES)
def test_regions_are_found_and_known_to_be_dark_or_bright(polarity: Polarity) -> None:
    answer = localise_class(pictures(polarity), areas(), {})
    assert isinstance(answer, Proposals)
    found = answer.by_index
    assert answer.polarity == polarity
    assert sorted(found) == list(range(COUNT))
    overlaps = [iou(found[n].blob.draw((SIZE, SIZE)), regions(COUNT)[n]) for n in found]
    assert np.mean(overlaps) > 0.85


def test_areas_of_other_pictures_explain_no_blobs() -> None:
    """Else a class that is no blob, such as fat or a rim, would begin with a wrong place."""
    foreign = np.random.default_rng(0).permutation(areas()).tolist()
    assert localise_class(pictures(-1), foreign, {}) == "unexplained"


def test_pictures_without_blobs_are_not_guessed() -> None:
    random = np.random.default_rng(2)
    empty = [random.normal(0.5, 0.08, (SIZE, SIZE)) for _ in range(COUNT)]
    assert localise_class(empty, areas(), {}) == "unexplained"


def test_flat_pictures_are_not_guessed_from_rounding() -> None:
    assert localise_class([np.full((SIZE, SIZE), 0.3)] * COUNT, areas(), {}) == "unexplained"


def test_marks_that_vanished_on_the_small_grid_say_nothing() -> None:
    nothing = np.zeros((SIZE, SIZE))
    wrong = {n: disc(2, 2, 2).astype(float) for n in range(3)}
    assert localise_class(pictures(-1), areas(), {**wrong, 3: nothing}) == "missed"


def test_too_few_cases_of_known_area_tell_nothing() -> None:
    enough = [math.nan] * (COUNT - LEAST_CASES) + areas()[COUNT - LEAST_CASES :]
    assert isinstance(localise_class(pictures(-1), enough, {}), Proposals)
    for missing in (math.nan, 0.0):
        few = [*enough[:-1], missing]
        assert localise_class(pictures(-1), few, {}) == "few"


@pytest.mark.parametrize(("wrong", "believed"), [(0, True), (1, True), (4, False)])
def test_marks_that_mostly_lie_elsewhere_take_the_guesses_back(wrong: int, believed: bool) -> None:
    there = [disc(2, 2, 2)] * wrong + regions(COUNT)[wrong:5]
    marks = {n: mark.astype(float) for n, mark in enumerate(there)}
    assert isinstance(localise_class(pictures(-1), areas(), marks), Proposals) == believed


def test_marks_of_cases_without_an_area_are_not_asked() -> None:
    unknown = [math.nan, *areas()[1:]]
    answer = localise_class(pictures(-1), unknown, {0: disc(2, 2, 2).astype(float)})
    assert isinstance(answer, Proposals)


def test_absent_and_unknown_classes_are_left_out() -> None:
    known = [math.nan, 0.0, *areas()[2:]]
    answer = localise_class(pictures(-1), known, {})
    assert isinstance(answer, Proposals)
    assert sorted(answer.by_index) == list(range(2, COUNT))


def test_the_more_a_blob_stands_out_the_surer_it_is() -> None:
    half = COUNT // 2
    answer = localise_class(pictures(1, [0.2] * half + [0.4] * half), areas(), {})
    assert isinstance(answer, Proposals)
    sure = [answer.by_index[n].certainty for n in range(COUNT)]
    assert sorted(sure) == pytest.approx([(n + 1) / COUNT for n in range(COUNT)])
    assert max(sure[:half]) < min(sure[half:])


@pytest.mark.parametrize("shape", [(30, 50), (96, 128), (333, 200)])
def test_pictures_are_looked_at_small_and_keep_their_mean(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random(shape)
    smaller = on_blob_grid(image)
    assert max(smaller.shape) == min(SIDE, max(shape))
    assert smaller.shape[0] / smaller.shape[1] == pytest.approx(shape[0] / shape[1], rel=0.03)
    assert smaller.mean() == pytest.approx(image.mean(), abs=1e-3)
