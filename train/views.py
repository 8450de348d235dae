"""A second view of a batch, moved in the plane, and the way back: for terms of consistency."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

STEEPEST_DEGREES = 20.0
SMALLEST_SCALE = 0.7
"""Least size of the picture in its frame: small regions must stay larger than a network's cell."""


@dataclass(frozen=True)
class View:
    """How each picture of a batch is moved: flipped, turned and made smaller within its frame.

    back: for each picture the 2 x 2 matrix from places of the view to those of the original, as
    (x, y) from the centre, the frame's sides being at -1 and 1. All of the original is in view;
    what lies beyond it is 0. Frames are square.
    """

    back: Float[Tensor, "b 2 2"]

    def apply(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The pictures as the view shows them, bilinear, 0 beyond their edges."""
        return _sampled(image, self.back, "zeros")

    def undo(self, logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """Maps of the view in the frame of the original, so that undo(apply(x)) is nearly x.

        Differentiable in the maps. At the very edge the nearest value is taken, not a 0.
        """
        return _sampled(logits, torch.linalg.inv(self.back), "border")


def draw_view(count: int, random: np.random.Generator) -> View:
    """A view for each of `count` pictures.

    Each is flipped with probability 1/2 along either axis, turned by any number of quarters and by
    up to `STEEPEST_DEGREES` either way, and made smaller: at most by `SMALLEST_SCALE`, at least
    until its corners are in the frame.
    """
    flips = random.choice((-1.0, 1.0), (count, 2))
    quarters = random.integers(4, size=count)
    tilts = np.radians(random.uniform(-STEEPEST_DEGREES, STEEPEST_DEGREES, count))
    largest = 1 / (np.abs(np.cos(tilts)) + np.abs(np.sin(tilts)))
    scales = random.uniform(np.minimum(SMALLEST_SCALE, largest), largest)
    angles = quarters * (math.pi / 2) + tilts
    cosines, sines = np.cos(angles), np.sin(angles)
    turns = np.array([[cosines, -sines], [sines, cosines]]).transpose(2, 0, 1)
    back = turns * flips[:, None, :] / scales[:, None, None]
    return View(torch.from_numpy(back).float())


def _sampled(
    maps: Float[Tensor, "b n h w"], back: Float[Tensor, "b 2 2"], padding: str
) -> Float[Tensor, "b n h w"]:
    """Maps read at the places that the matrices give for each of their pixels' centres."""
    height, width = maps.shape[-2:]
    maps = maps if maps.dtype == torch.float64 else maps.float()
    matrices = back.to(maps)
    x = (torch.arange(width, device=maps.device, dtype=maps.dtype) * 2 + 1) / width - 1
    y = (torch.arange(height, device=maps.device, dtype=maps.dtype) * 2 + 1) / height - 1
    # Products by hand: matmul, as affine_grid has it, would round places to bfloat16 in autocast.
    places = x.view(1, 1, -1, 1) * matrices[:, None, None, :, 0]
    places = places + y.view(1, -1, 1, 1) * matrices[:, None, None, :, 1]
    return F.grid_sample(maps, places, mode="bilinear", padding_mode=padding, align_corners=False)
