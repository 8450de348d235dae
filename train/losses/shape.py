"""Losses on where a class is and how far it reaches: a box around it, its centre, its spread.

Positions are shares 0..1 of the frame's side, rows before columns. NaN is unknown, which
contributes 0 and still counts.

A box has a top, left, bottom and right edge; a pixel is in the box if its centre is. Source of the
three losses on boxes: Kervadec et al., "Bounding boxes for weakly supervised segmentation: Global
constraints get close to full supervision", MIDL 2020; there in pixels, here in shares.

Centre and spread are first and second moments of the soft region. Source: Kervadec et al., "Beyond
pixel-wise supervision for segmentation: A few global shape descriptors might be surprisingly
good!", MIDL 2021; there as log-barriers in pixels.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from wsseg.imaging.definitions import Denominator
from wsseg.train.data.batch import Batch, Outputs
from wsseg.train.losses.area import bounds_excess
from wsseg.train.losses.base import (
    Context,
    Inputs,
    Interval,
    Loss,
    PositiveShare,
    Share,
    counted_mean,
    filled,
    mean_where,
    supervised,
    widened,
)

OF_IMAGE: Denominator = "image"


class BoxTightness(Loss):
    """Mean over all strips across the box of what they lack: (1 - l / thickness) above 0, in 0..1.

    A tight box touches its region at every edge, so that every row and column of it crosses the
    region. l is the soft length within the box of a row, mean over the rows of a strip, and the
    same of columns. strip: its width; thickness: the least length; both as shares of the side.
    The source's one pixel a row is a thickness of 1 / side. A box narrower than a strip is one
    strip.
    """

    kind: Literal["box_tightness"] = "box_tightness"
    strip: PositiveShare = 0.02
    thickness: PositiveShare = 0.004
    inputs: ClassVar[Inputs] = supervised("box")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        probabilities = torch.sigmoid(widened(outputs.logits))
        rows, columns, known = _sides(probabilities, batch.box)
        cost = probabilities.new_zeros(known.shape)
        inside = probabilities * rows.unsqueeze(-1) * columns.unsqueeze(-2)
        for axis, lines in ((-1, rows), (-2, columns)):
            width = max(1, round(self.strip * lines.shape[-1]))
            # Mean over all pixels of a line: the length inside as a share of the side.
            means, chosen = _strips(inside.mean(axis), lines, width)
            lacking = (1 - means / self.thickness).relu() * chosen
            cost = cost + lacking.sum(-1) / chosen.sum(-1).clamp(min=1) / 2
        return counted_mean(cost, known)


class BoxEmptiness(Loss):
    """Mean of -log(1 - p) over the pixels outside the box, in nats; 0 where there is none."""

    kind: Literal["box_emptiness"] = "box_emptiness"
    inputs: ClassVar[Inputs] = supervised("box")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        logits = widened(outputs.logits)
        rows, columns, known = _sides(logits, batch.box)
        outside = ~(rows.unsqueeze(-1) & columns.unsqueeze(-2))
        return counted_mean(mean_where(-F.logsigmoid(-logits), outside), known)


class BoxSize(Loss):
    """`SizeBounds` on a class's share of the image: these parts of the area of its box."""

    kind: Literal["box_size"] = "box_size"
    parts: Interval = (0.5, 0.9)
    inputs: ClassVar[Inputs] = supervised("box")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        top, left, bottom, right = batch.box.unbind(-1)
        area = (bottom - top) * (right - left)
        bounds = torch.stack([part * area for part in self.parts], -1)
        of_image = (OF_IMAGE,) * area.shape[1]
        return bounds_excess(outputs.logits, bounds, of_image).relu().square().sum(-1).mean()


class Centroid(Loss):
    """Distance of the centre of mass from the known one beyond the margin, mean of both axes.

    margin: on either side, per axis; within it the gradient is zero. All in shares of the side.
    """

    kind: Literal["centroid"] = "centroid"
    margin: Share = 0.05
    inputs: ClassVar[Inputs] = supervised("centroid")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        centre = torch.stack([mean for mean, _ in _moments(outputs.logits)], -1)
        return _distance(centre, batch.centroid, self.margin)


class Spread(Loss):
    """Difference of the standard deviations from the known ones beyond the margin, as `Centroid`.

    A pixel spreads by 1 / sqrt(12) of its own side, which is counted in: a region has the same
    spread at any resolution, and the square root is never taken of 0, where its slope has no bound.
    """

    kind: Literal["spread"] = "spread"
    margin: Share = 0.02
    inputs: ClassVar[Inputs] = supervised("spread")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        spread = torch.stack([variance.sqrt() for _, variance in _moments(outputs.logits)], -1)
        return _distance(spread, batch.spread, self.margin)


ShapeLoss = BoxTightness | BoxEmptiness | BoxSize | Centroid | Spread


def _sides(
    maps: Float[Tensor, "b k h w"], box: Float[Tensor, "b k 4"]
) -> tuple[Bool[Tensor, "b k h"], Bool[Tensor, "b k w"], Bool[Tensor, "b k"]]:
    """The rows and the columns that the box takes, and whether there is a box."""
    edges, known = filled(widened(box), maps)
    top, left, bottom, right = edges.unsqueeze(-1).unbind(-2)
    height, width = maps.shape[-2:]
    rows = (torch.arange(height, device=maps.device, dtype=maps.dtype) + 0.5) / height
    columns = (torch.arange(width, device=maps.device, dtype=maps.dtype) + 0.5) / width
    return (rows > top) & (rows < bottom), (columns > left) & (columns < right), known.all(-1)


def _strips(
    lengths: Float[Tensor, "b k n"], lines: Bool[Tensor, "b k n"], width: int
) -> tuple[Float[Tensor, "b k n"], Bool[Tensor, "b k n"]]:
    """Mean length of the strip that begins at each line, and which of these are in the box.

    lines: those of the box, without a gap. A strip is `width` lines, or all of a narrower box.
    """
    position = torch.arange(lines.shape[-1], device=lines.device)
    count = lines.sum(-1, keepdim=True)
    first = lines.int().argmax(-1, keepdim=True)
    size = count.clamp(min=1, max=width)
    chosen = lines & (position <= first + count - size)
    sums = F.pad(lengths.cumsum(-1), (1, 0))
    stop = (position + size).clamp(max=lines.shape[-1])
    return (sums.gather(-1, stop) - sums[..., :-1]) / size, chosen


def _moments(
    logits: Float[Tensor, "b k h w"],
) -> list[tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]]:
    """Mean and variance of the rows, then of the columns, with the weights p / sum(p).

    The weights are taken as softmax(log p): they sum to 1 however small p is, so that a map that is
    almost empty still has a centre, and a gradient that moves it.
    """
    inside = F.logsigmoid(widened(logits))
    weights = inside.flatten(2).softmax(-1).view_as(inside)
    moments = []
    for marginal in (weights.sum(-1), weights.sum(-2)):
        count = marginal.shape[-1]
        position = (torch.arange(count, device=logits.device, dtype=marginal.dtype) + 0.5) / count
        mean = (marginal * position).sum(-1)
        distance = (position - mean.unsqueeze(-1)).square()
        moments.append((mean, (marginal * distance).sum(-1) + 1 / (12 * count**2)))
    return moments


def _distance(
    predicted: Float[Tensor, "b k 2"], stated: Float[Tensor, "b k 2"], margin: float
) -> Float[Tensor, ""]:
    """Mean absolute difference beyond the margin."""
    target, known = filled(stated, predicted)
    return counted_mean(((predicted - target).abs() - margin).relu(), known)
