"""The graph that is deployed: raw pixels in, masks and areas out, with nothing left to a reader."""

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wsseg.train.predictor import Predictor

Precision = Literal["fp32", "fp16"]
Answers = tuple[Tensor, Tensor, Tensor, Tensor]


class DeployGraph(nn.Module):
    """The training's own Predictor, followed by thresholds and areas; for `eval()` use only.

    thresholds: one probability per class; a pixel belongs to a class at or above it.
    precision "fp16" computes the network in half precision; the intensity window, the resizing and
    everything after the coarse logits stay in float32, because raw intensities (HU offsets, 16-bit
    detectors) and areas do not fit into half's 11 bits. Holds a copy: the predictor is unchanged.
    """

    thresholds: Tensor

    def __init__(
        self, predictor: Predictor, thresholds: Sequence[float], precision: Precision
    ) -> None:
        super().__init__()
        self.predictor = copy.deepcopy(predictor).eval()
        self.predictor.network.requires_grad_(False)
        fold_batch_norm(self.predictor.network)
        if precision == "fp16":
            self.predictor.register_module("network", _HalfNetwork(self.predictor.network))
        limits = torch.tensor(thresholds, dtype=torch.float32).view(1, -1, 1, 1)
        self.register_buffer("thresholds", limits, persistent=False)

    def forward(self, pixels: Tensor) -> Answers:
        """Mask, pixel area, soft area and probability of raw pixels (n, c, H, W), float32.

        mask: uint8 (n, k, H, W), 0 or 1. pixel_area: int64 (n, k), exact. soft_area: float32
        (n, k), sum of probabilities in pixels. probability: float32 (n, k, H, W), 0..1; the mask is
        cut from it, so that a reader who knows a better place to cut can do so.

        Areas are summed along rows, then over the rows. Each sum of n positive float32 terms is
        off by at most (n - 1) * 2**-24 of its value in whatever order it is taken, so soft_area by
        (H + W) * 2**-24: below 0.025 % for 2048 x 2048. One sum over all pixels has no such bound:
        once 2**24 times larger than a term, it stops growing.
        """
        probability = self.predictor(pixels)
        mask = probability >= self.thresholds
        # A row has fewer than 2**24 pixels, so its float32 count is exact and half as large as an
        # int64 copy of the whole mask.
        pixel_area = mask.to(torch.float32).sum(-1).to(torch.int64).sum(-1)
        soft_area = probability.sum(-1).sum(-1)
        return mask.to(torch.uint8), pixel_area, soft_area, probability


class _HalfNetwork(nn.Module):
    """A network computed in half precision between float32 ends."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def coarse_logits(self, image: Tensor) -> Tensor:
        coarse: Tensor = self.network.coarse_logits(image.half())  # type: ignore[operator]
        return coarse.float()


def fold_batch_norm(module: nn.Module) -> None:
    """Fold every batch norm into the convolution that stands right before it, in place.

    Done here in float32, before any rounding to half: exporters fold too, but in the precision
    of the graph, where a small running variance is lost. The networks register a batch norm right
    after its convolution; one that stands elsewhere is left for the exporter.
    """
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous and isinstance(previous[1], nn.Conv2d):
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, nn.Identity())
        else:
            fold_batch_norm(child)
        previous = name, child
