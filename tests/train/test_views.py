"""A second view of a batch and the way back."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from wsseg.train.learner import SMALLEST_SCALE, View, draw_view

SIDE = 48
seeds = st.integers(0, 2**32 - 1)


def blobs(count: int, seed: int = 0) -> torch.Tensor:
    """Smooth maps that reach the edges."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 2, 6, 6, generator=draw)
    return F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")


@given(seed=seeds)
def test_the_way_back_gives_nearly_what_was_there(seed):
    maps = blobs(3)
    view = draw_view(3, np.random.default_rng(seed))
    back = view.undo(view.apply(maps))
    inner = (..., slice(3, -3), slice(3, -3))
    assert (back - maps)[inner].abs().max() < 0.15 * maps.abs().max()
    assert (back - maps)[inner].abs().mean() < 0.03 * maps.abs().mean()


@given(seed=seeds)
def test_all_of_the_picture_stays_in_view(seed):
    view = draw_view(4, np.random.default_rng(seed))
    corners = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])
    moved = torch.linalg.inv(view.back) @ corners.T
    assert moved.abs().max() <= 1 + 1e-5
    scale = torch.linalg.det(view.back).abs().rsqrt()
    assert scale.min() >= SMALLEST_SCALE - 1e-5
    assert scale.max() <= 1 + 1e-5


@given(seed=seeds)
def test_a_view_keeps_areas_up_to_its_scale(seed):
    view = draw_view(2, np.random.default_rng(seed))
    shares = view.apply(torch.ones(2, 1, SIDE, SIDE)).mean((1, 2, 3))
    expected = 1 / torch.linalg.det(view.back).abs()
    torch.testing.assert_close(shares, expected, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("matrix", "moved"),
    [
        ([[-1.0, 0], [0, 1]], lambda maps: maps.flip(-1)),
        ([[1.0, 0], [0, -1]], lambda maps: maps.flip(-2)),
        ([[0.0, -1], [1, 0]], lambda maps: torch.rot90(maps, 1, (2, 3))),
    ],
)
def test_flips_and_quarter_turns_move_pixels_whole(matrix, moved):
    maps = blobs(2)
    view = View(torch.tensor([matrix, matrix]))
    torch.testing.assert_close(view.apply(maps), moved(maps), rtol=0, atol=1e-4)
    torch.testing.assert_close(view.undo(moved(maps)), maps, rtol=0, atol=1e-4)


def test_each_picture_of_a_batch_has_a_view_of_its_own_and_a_seed_repeats_it():
    view, again = (draw_view(5, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(view.back, again.back)
    assert len({tuple(matrix.flatten().tolist()) for matrix in view.back}) == 5
    maps = blobs(5)
    one = View(view.back[2:3]).apply(maps[2:3])
    torch.testing.assert_close(view.apply(maps)[2:3], one)


def test_beyond_the_picture_a_view_is_black_and_the_way_back_has_no_border():
    view = View(torch.eye(2)[None] / 0.75)
    seen = view.apply(torch.ones(1, 1, SIDE, SIDE))
    assert seen[0, 0, 0, 0] == 0
    assert view.undo(torch.ones(1, 1, SIDE, SIDE)).min() == pytest.approx(1)


def test_the_way_back_teaches_the_moved_maps():
    logits = blobs(2).requires_grad_()
    view = draw_view(2, np.random.default_rng(0))
    (gradient,) = torch.autograd.grad(view.undo(logits).sum(), logits)
    assert torch.isfinite(gradient).all()
    assert gradient.sum().item() == pytest.approx(2 * 2 * SIDE**2, rel=1e-4)


def test_places_are_not_rounded_by_autocast_nor_maps_by_half_precision():
    view = draw_view(2, np.random.default_rng(1))
    maps = blobs(2)
    with torch.autocast("cpu", torch.bfloat16):
        inside = view.undo(maps)
    assert torch.equal(inside, view.undo(maps))
    assert view.undo(maps.bfloat16()).dtype == torch.float32
