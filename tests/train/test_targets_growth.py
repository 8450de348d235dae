import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsseg.train.targets import (
    edge_strength,
    euclidean_cost,
    geodesic_cost,
    rank,
    shares,
    step_cost,
)

FREE = np.ones((64, 64), bool)


def disc(row: float, column: float, radius: float, size: int = 64) -> np.ndarray:
    rows, columns = np.indices((size, size))
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@given(st.integers(1, 64 * 64), st.integers(0, 63), st.integers(0, 63))
def test_growth_has_exactly_the_known_area(area: int, row: int, column: int) -> None:
    mark = np.zeros((64, 64), bool)
    mark[row, column] = True
    grown = shares(euclidean_cost(mark, FREE)[None], np.array([float(area)]), 1.6)[0] < 1
    assert grown.sum() == area
    assert grown[row, column]


def test_a_straight_growth_of_a_smaller_copy_gives_the_shape_back() -> None:
    region = disc(30, 30, 20) | disc(30, 44, 12)
    smaller = disc(30, 30, 10) | disc(30, 44, 4)
    area = np.array([float(region.sum())])
    assert iou(shares(euclidean_cost(smaller, FREE)[None], area, 1.6)[0] < 1, region) > 0.9


def test_a_geodesic_growth_stops_at_the_edge_of_what_it_was_marked_in() -> None:
    region = np.zeros((64, 64), bool)
    region[10:50, 20:30] = True
    mark = disc(15, 25, 2)
    image = region.astype(np.float32)
    area = float(region.sum())
    steps = step_cost(image, edge_strength(image), mark, area)
    along = shares(geodesic_cost(steps, mark, FREE, 1.6 * area)[None], np.array([area]), 1.6)[0] < 1
    euclidean = shares(euclidean_cost(mark, FREE)[None], np.array([area]), 1.6)[0] < 1
    assert iou(along, region) > 0.85
    assert iou(euclidean, region) < 0.6


def test_growth_does_not_enter_what_is_not_allowed() -> None:
    allowed = FREE.copy()
    allowed[:, 32:] = False
    mark, even = disc(32, 28, 2), np.ones((64, 64), np.float32)
    for cost in (euclidean_cost(mark, allowed), geodesic_cost(even, mark, allowed, 4096.0)):
        grown = shares(cost[None], np.array([1500.0]), 1.0)[0] < 1
        assert grown.sum() == 1500
        assert not grown[:, 32:].any()


def test_growth_follows_what_looks_like_the_mark_where_no_edge_stops_it() -> None:
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    mark, area = disc(32, 32, 2), 600.0
    none = np.zeros((64, 64), np.float32)
    steps = step_cost(ramp, none, mark, area)
    rows, columns = np.nonzero(
        shares(geodesic_cost(steps, mark, FREE, area)[None], np.array([area]), 1.0)[0] < 1
    )
    assert np.ptp(rows) > 1.2 * np.ptp(columns)


def test_the_cost_of_a_step_ignores_how_bright_the_picture_is() -> None:
    random = np.random.default_rng(0)
    image = random.random((64, 64)).astype(np.float32)
    mark = disc(32, 32, 4)
    dim, bright = (step_cost(i, edge_strength(i), mark, 400.0) for i in (image, 40 * image + 7))
    assert np.allclose(dim, bright, rtol=1e-3)


def test_a_flat_picture_has_no_edges_and_grows_round() -> None:
    flat = np.full((64, 64), 0.3, np.float32)
    edges = edge_strength(flat)
    assert not edges.any()
    mark = np.zeros((64, 64), bool)
    mark[32, 32] = True
    cost = geodesic_cost(step_cost(flat, edges, mark, 700.0), mark, FREE, 900.0)
    assert iou(shares(cost[None], np.array([700.0]), 1.0)[0] < 1, disc(32, 32, 15)) > 0.85


def test_ranks_count_from_zero_without_gaps_and_leave_the_rest_out() -> None:
    cost = np.array([[3.0, 1.0, 1.0], [math.inf, 2.0, 9.0]])
    assert rank(cost, 4).tolist() == [[3, 0, 1], [math.inf, 2, math.inf]]


def test_two_classes_share_the_ground_between_them_and_both_keep_their_areas() -> None:
    left, right = disc(32, 26, 1), disc(32, 38, 1)
    costs = np.stack([euclidean_cost(left, FREE), euclidean_cost(right, FREE)])
    areas = np.array([900.0, 300.0])
    grown = shares(costs, areas, 1.6) < 1
    assert not (grown[0] & grown[1]).any()
    assert grown.sum((1, 2)) == pytest.approx(areas, rel=0.03)
    assert grown[0, 32, 26]
    assert grown[1, 32, 38]


def test_a_ring_and_its_core_grow_into_each_others_borders_only() -> None:
    core, ring = disc(32, 32, 10), disc(32, 32, 16) & ~disc(32, 32, 10)
    marks = disc(32, 32, 2), disc(32, 32, 14) & ~disc(32, 32, 12)
    costs = np.stack([euclidean_cost(mark, FREE) for mark in marks])
    grown = shares(costs, np.array([float(core.sum()), float(ring.sum())]), 1.6) < 1
    assert iou(grown[0], core) > 0.75
    assert iou(grown[1], ring) > 0.75
