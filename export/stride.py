"""A network at twice its output stride: the same weights, less arithmetic, and the difference."""

import copy
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from wsseg.export.parity import difference, overall, reference_outputs
from wsseg.imaging.errors import WssegError
from wsseg.serve.manifest import Manifest, OutputStride
from wsseg.train.networks import Predictor

FINE: Final = 8
"""Output stride of torchvision's DeepLabV3 on a ResNet."""
STAGES = ("layer3", "layer4")
"""Stages whose stride was replaced by dilation; the first one gets its stride back."""
AT_STRIDE_8 = ("resnet50", "resnet101")


class Between(nn.Module):
    """Insert the mean of neighbouring features between the even rows and columns.

    cells: number of rows and columns of the result, of which ceil(cells / 2) are even. At the far
    edge the last even cell is repeated. This uses means and copies alone, because a resize would
    shift the even cells by half a cell from where they lay in training.
    """

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, even: Float[Tensor, "n c rows columns"]) -> Float[Tensor, "n c h w"]:
        """Return all cells; the even cells are unchanged."""
        return _double(_double(even, 2), 3)[..., : self.cells, : self.cells]


def at_stride_16(predictor: Predictor) -> Predictor:
    """Return a copy of a predictor of output stride 8 that computes every other row and column.

    Where a stage's stride of 2 was replaced by dilation, all later convolutions look from even
    cells at even cells. With the stride put back and dilations halved, layer3, layer4 and the
    pyramid therefore give the very values of the even cells, for a quarter of the arithmetic; but
    for the pyramid's mean over the image, which is taken over the even cells. The cells between
    them are interpolated before the last 3 x 3 convolution, which has no dilation to halve.
    Source: the reverse of Chen et al., "Rethinking Atrous Convolution for Semantic Image
    Segmentation", 2017, section 3.1.

    Raises WssegError for a network whose output stride is 16 as it is.
    """
    name = predictor.network.name
    if name not in AT_STRIDE_8:
        raise WssegError(
            f"--output-stride 16 changes nothing: {name} has an output stride of 16 as it is; "
            f"leave the option out (it is for {' and '.join(AT_STRIDE_8)})"
        )
    coarser = copy.deepcopy(predictor)
    network = coarser.network
    first = network.backbone.get_submodule(f"{STAGES[0]}.0")
    for part in ("conv2", "downsample.0"):
        layer = first.get_submodule(part)
        if not isinstance(layer, nn.Conv2d):
            raise AssertionError("torchvision's bottleneck has a convolution of this name")
        layer.stride = (2, 2)
    for stage in STAGES:
        _halve_dilations(network.backbone.get_submodule(stage))
    head = network.classifier
    if not isinstance(head, nn.Sequential):
        raise AssertionError("torchvision's head is a sequence that begins with the pyramid")
    _halve_dilations(head[0])
    head[0] = nn.Sequential(head[0], Between(math.ceil(predictor.front.size / FINE)))
    return coarser.eval()


def coarsened(
    predictor: Predictor, samples: Sequence[NDArray[np.float32]], plan: Manifest
) -> tuple[Predictor, OutputStride]:
    """Return the predictor at output stride 16, and how its masks and ratios differ.

    samples: raw slices (c, H, W). plan: gives thresholds, classes and ratios.
    """
    coarser = at_stride_16(predictor)
    fine, coarse = (
        reference_outputs(network, samples, plan.thresholds, plan.classes, plan.ratios)
        for network in (predictor, coarser)
    )
    # Slices alone: batches with the mirror image add nothing.
    total = overall(
        [
            difference(
                (after.probability >= coarse.thresholds).astype(np.uint8),
                before,
                fine,
                probability=0.0,
                border=0.0,
            )
            for after, before in zip(coarse.references, fine.references, strict=True)
            if len(before.pixels) == 1
        ]
    )
    return coarser, OutputStride(
        stride=16,
        trained_at=FINE,
        slices=total.slices,
        mask_iou=total.mask_iou,
        ratio_difference=total.ratio_mean,
    )


def _halve_dilations(module: nn.Module) -> None:
    """Halve the dilation and the padding, which equals it, of 3 x 3 convolutions."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.dilation[0] > 1:
            half = layer.dilation[0] // 2
            layer.dilation = layer.padding = (half, half)


def _double(even: Tensor, axis: int) -> Tensor:
    count = even.shape[axis]
    following = torch.cat([even.narrow(axis, 1, count - 1), even.narrow(axis, count - 1, 1)], axis)
    return torch.stack([even, (even + following) / 2], axis + 1).flatten(axis, axis + 1)
