"""Terms on a box around a class: top, left, bottom, right edge as shares 0..1 of the frame's side.

A pixel is in the box if its centre is. NaN is an unknown box, which contributes 0 and still counts.
Source of all three: Kervadec et al., "Bounding boxes for weakly supervised segmentation: Global
constraints get close to full supervision", MIDL 2020; there in pixels, here in shares.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from wsseg.train.terms.areas import counted_mean, filled, mean_where, widened


def box_tightness_loss(
    logits: Float[Tensor, "b k h w"], box: Float[Tensor, "b k 4"], *, strip: float, thickness: float
) -> Float[Tensor, ""]:
    """Mean over all strips across the box of what they lack: (1 - l / thickness) above 0, in 0..1.

    A tight box touches its region at every edge, so that every row and column of it crosses the
    region. l is the soft length within the box of a row, mean over the rows of a strip, and the
    same of columns. strip: its width; thickness: the least length; both as shares of the side.
    The source's one pixel a row is a thickness of 1 / side. A box narrower than a strip is one
    strip.
    """
    probabilities = torch.sigmoid(widened(logits))
    rows, columns, known = _sides(probabilities, box)
    cost = probabilities.new_zeros(known.shape)
    inside = probabilities * rows.unsqueeze(-1) * columns.unsqueeze(-2)
    for axis, lines in ((-1, rows), (-2, columns)):
        # Mean over all pixels of a line: the length inside as a share of the side.
        means, chosen = _strips(inside.mean(axis), lines, max(1, round(strip * lines.shape[-1])))
        lacking = (1 - means / thickness).relu() * chosen
        cost = cost + lacking.sum(-1) / chosen.sum(-1).clamp(min=1) / 2
    return counted_mean(cost, known)


def box_emptiness_loss(
    logits: Float[Tensor, "b k h w"], box: Float[Tensor, "b k 4"]
) -> Float[Tensor, ""]:
    """Mean of -log(1 - p) over the pixels outside the box, in nats; 0 where there is none."""
    logits = widened(logits)
    rows, columns, known = _sides(logits, box)
    outside = ~(rows.unsqueeze(-1) & columns.unsqueeze(-2))
    return counted_mean(mean_where(-F.logsigmoid(-logits), outside), known)


def box_bounds(box: Float[Tensor, "b k 4"], low: float, high: float) -> Float[Tensor, "b k 2"]:
    """Bounds of a class's share of the picture: these fractions of the area of its box."""
    top, left, bottom, right = box.unbind(-1)
    area = (bottom - top) * (right - left)
    return torch.stack([low * area, high * area], -1)


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
    place = torch.arange(lines.shape[-1], device=lines.device)
    count = lines.sum(-1, keepdim=True)
    first = lines.int().argmax(-1, keepdim=True)
    size = count.clamp(min=1, max=width)
    chosen = lines & (place <= first + count - size)
    sums = F.pad(lengths.cumsum(-1), (1, 0))
    stop = (place + size).clamp(max=lines.shape[-1])
    return (sums.gather(-1, stop) - sums[..., :-1]) / size, chosen
