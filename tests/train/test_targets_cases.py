import math
from pathlib import Path

import numpy as np
import pytest

from wsseg.train.cases import Box, Case, Region
from wsseg.train.targets import (
    Target,
    case_areas,
    case_evidence,
    grid_shape,
    grown,
    mark_kind,
    pixel_target,
)

IMAGE = Path("made.png")


def made(ratio: float | None = None, **region: object) -> Case:
    return Case(row=2, image=IMAGE, ratios=(ratio,), regions=(Region(**region),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (made(0.2), (0.2, 0.2)),
        (made(low=0.1, high=0.3), (0.1, 0.3)),
        (made(high=0.3), (0.0, 0.3)),
        (made(low=0.1), (math.nan, math.nan)),
        (made(present=False), (0.0, 0.0)),
        (made(high=0.0), (0.0, 0.0)),
        (made(present=True), (math.nan, math.nan)),
    ],
)
def test_areas_are_what_the_table_bounds(case: Case, expected: tuple[float, float]) -> None:
    assert np.array_equal(case_areas(case, ("image",))[0], expected, equal_nan=True)


def test_a_ratio_of_another_class_bounds_no_area_unless_it_is_zero() -> None:
    assert np.isnan(case_areas(made(0.2), ("foreground",))).all()
    assert (case_areas(made(0.0), ("foreground",)) == 0).all()


@pytest.mark.parametrize("size", [64, 128, 256])
def test_a_mark_of_unknown_area_is_never_taught_as_background(size: int) -> None:
    marks = np.zeros((512, 512), np.uint8)
    marks[200, 300] = 1
    marks[100:400, 50] = 1
    evidence = case_evidence(made(), np.zeros((1, 512, 512), np.float32), marks, ("image",))
    taught = grown(evidence, "euclidean", size)
    assert taught.weight.any()
    assert (taught.inside[taught.weight > 0] == 255).all()


def test_what_is_not_taught_does_not_dilute_what_is() -> None:
    inside = np.zeros((1, 4, 4), bool)
    weight = np.zeros((1, 4, 4), np.float32)
    inside[0, 0, 0], weight[0, 0, 0] = True, 1.0
    taught = pixel_target(Target(inside, weight, np.array([False]), np.array([False])), 2)
    assert taught.inside[0, 0, 0] == 255
    assert taught.weight[0, 0, 0] == pytest.approx(255 / 4, abs=1)


def test_growth_keeps_the_area_on_the_network_s_grid() -> None:
    rows, columns = np.indices((300, 420))
    mark = (((rows - 150) / 10) ** 2 + ((columns - 200) / 30) ** 2 <= 1).astype(np.uint8)
    evidence = case_evidence(made(0.1), np.zeros((1, 300, 420), np.float32), mark, ("image",))
    taught = grown(evidence, "euclidean", 128)
    assert taught.inside.mean() / 255 == pytest.approx(0.1, rel=0.01)


def test_pictures_are_grown_on_at_most_256_pixels_a_side() -> None:
    assert grid_shape((512, 384)) == (256, 192)
    assert grid_shape((100, 200)) == (100, 200)


def test_extreme_points_alone_do_not_locate_the_inside() -> None:
    extremes = ((10, 30), (30, 10), (50, 30), (30, 50))
    region = {"extremes": extremes, "box": Box(10, 10, 51, 51)}
    marks = np.zeros((64, 64), np.uint8)
    for place in extremes:
        marks[place] = 1
    image = np.zeros((1, 64, 64), np.float32)
    assert not case_evidence(made(0.2, **region), image, marks, ("image",)).located[0]
    marks[30, 30] = 1
    assert case_evidence(made(0.2, **region), image, marks, ("image",)).located[0]


def test_two_blobs_far_apart_are_no_scribble() -> None:
    rows, columns = np.indices((256, 256))
    one = ((rows - 128) / 20) ** 2 + ((columns - 50) / 8) ** 2 <= 1
    other = ((rows - 128) / 20) ** 2 + ((columns - 200) / 8) ** 2 <= 1
    assert mark_kind(one | other) == "eroded"
