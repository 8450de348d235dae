import numpy as np
import pytest

from wsseg.train.targets import (
    BorderEvidence,
    border_evidence,
    choose_growth,
    mark_kind,
)


def ellipse(height: float, width: float, size: int = 128) -> np.ndarray:
    rows, columns = np.indices((size, size)) - size / 2
    inside: np.ndarray = (rows / height) ** 2 + (columns / width) ** 2 <= 1
    return inside


def test_a_few_pixels_are_a_point() -> None:
    mark = np.zeros((20, 20), bool)
    mark[4, 4:7] = True
    assert mark_kind(mark) == "point"


@pytest.mark.parametrize("radius", [2, 3, 5, 9, 20])
def test_a_disc_is_told_from_a_smaller_copy_of_a_long_region(radius: float) -> None:
    assert mark_kind(ellipse(radius, radius)) == "disc"
    assert mark_kind(ellipse(radius, 2.5 * radius)) == "eroded"


def test_a_thin_stroke_is_a_scribble() -> None:
    mark = np.zeros((64, 64), bool)
    mark[30:32, 5:55] = True
    assert mark_kind(mark) == "scribble"


def test_edges_are_followed_only_where_the_inside_is_quiet_and_the_border_gains() -> None:
    assert choose_growth([BorderEvidence(0.1, 1.3)] * 3) == "geodesic"
    assert choose_growth([BorderEvidence(0.4, 1.3)] * 3) == "euclidean"
    assert choose_growth([BorderEvidence(0.1, 1.0)] * 3) == "euclidean"


def test_one_odd_case_does_not_change_the_choice() -> None:
    assert choose_growth([BorderEvidence(0.1, 1.3)] * 3 + [BorderEvidence(3.0, 0.5)]) == "geodesic"


def test_without_a_shape_bearing_mark_growth_is_straight() -> None:
    assert choose_growth([]) == "euclidean"


def test_evidence_compares_borders_by_the_strength_of_their_edges() -> None:
    edges = np.zeros((64, 64), np.float32)
    found, wrong = ellipse(14, 14, 64), ellipse(20, 20, 64)
    edges[found & ~ellipse(12, 12, 64)] = 1.0
    edges[wrong & ~ellipse(18, 18, 64)] = 0.25
    case = border_evidence(edges, ellipse(4, 4, 64), euclidean=wrong, geodesic=found)
    assert case is not None
    assert case.gain > 2
    assert case.texture == 0


def test_a_flat_picture_is_no_evidence() -> None:
    flat = np.zeros((64, 64), np.float32)
    region = ellipse(9, 9, 64)
    assert border_evidence(flat, region, region, region) is None
