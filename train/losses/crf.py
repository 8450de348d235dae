"""A loss that joins neighbouring pixels that look alike, at reduced resolution."""

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, PositiveFloat
from torch import Tensor

from wsseg.train.cases.schema import NOT_MARKED
from wsseg.train.data.batch import Batch, Outputs
from wsseg.train.losses.base import Context, Inputs, Loss, unsupervised, widened


class GatedCrf(Loss):
    """Weighted mean over pairs of neighbours of likeness times p_i (1 - p_j) + (1 - p_i) p_j.

    In 0..1: 0 where neighbours that look alike are one class for sure. The weight of a pair is the
    Gaussian of its distance; the likeness is that of the intensities' difference (mean square over
    the channels), so that an image of noise asks for little. The gate: a marked pixel is no source,
    so that a pair counts once instead of twice where one of the two is marked, and not at all where
    both are.

    cells: most rows or columns of the grid that images are averaged to. radius: farthest neighbour
    along rows and along columns, in cells. position, intensity: standard deviations of the two
    Gaussians, the first as a share of the longer side, the second of the 0..1 intensities. Memory
    grows with (2 radius + 1)^2 / 2 maps of the small grid: pairs are taken one shift after another,
    never as one tensor.

    Source: Obukhov et al., "Gated CRF Loss for Weakly Supervised Semantic Image Segmentation",
    arXiv 1906.04651.
    """

    kind: Literal["gated_crf"] = "gated_crf"
    cells: Annotated[int, Field(ge=2, le=512)] = 64
    radius: Annotated[int, Field(ge=1, le=32)] = 5
    position: PositiveFloat = 0.1
    intensity: PositiveFloat = 0.1
    inputs: ClassVar[Inputs] = unsupervised("marks")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        logits = widened(outputs.logits)
        factor = -(-max(logits.shape[-2:]) // self.cells)
        probabilities = _shrunk(torch.sigmoid(logits), factor)
        picture = _shrunk(batch.image.to(logits.dtype), factor)
        free = _shrunk((batch.marks == NOT_MARKED).unsqueeze(1).to(logits.dtype), factor)
        energy = logits.new_zeros(logits.shape[:2])
        weights = logits.new_zeros(len(logits), 1)
        for down, right, closeness in self._shifts(*probabilities.shape[-2:]):
            p, q = _pairs(probabilities, down, right)
            one, other = _pairs(picture, down, right)
            difference = (one - other).square().mean(1, keepdim=True)
            likeness = torch.exp(-difference / (2 * self.intensity**2))
            # Each end that is not marked is a source once.
            gate = closeness * torch.stack(_pairs(free, down, right)).sum(0)
            energy = energy + (gate * likeness * (p + q - 2 * p * q)).sum((-2, -1))
            weights = weights + gate.sum((-2, -1))
        return (energy / torch.where(weights > 0, weights, 1)).mean()

    def _shifts(self, height: int, width: int) -> Iterator[tuple[int, int, float]]:
        """Half of all shifts (each pair once), down and right, and the Gaussian of their length."""
        across = min(self.radius, width - 1)
        sigma = self.position * max(height, width)
        for down in range(min(self.radius, height - 1) + 1):
            for right in range(-across if down else 1, across + 1):
                yield down, right, math.exp(-(down**2 + right**2) / (2 * sigma**2))


def _shrunk(maps: Float[Tensor, "b n h w"], factor: int) -> Tensor:
    return F.avg_pool2d(maps, factor, ceil_mode=True, count_include_pad=False)


def _pairs(maps: Float[Tensor, "b n h w"], down: int, right: int) -> tuple[Tensor, Tensor]:
    """The maps where both ends of a shift are in the frame: at its start, and at its end."""
    height, width = maps.shape[-2:]
    rows, columns = height - down, width - abs(right)
    left, start = max(right, 0), max(-right, 0)
    return (
        maps[..., :rows, start : start + columns],
        maps[..., down:, left : left + columns],
    )
