"""The deployed graph: raw pixels in, masks and areas out; its ONNX form and its fp16 range."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wsseg.serve import manifest as contract
from wsseg.serve.manifest import AREA_VARIANCE, PROBABILITY
from wsseg.train.networks import Predictor

INPUT = contract.INPUT
# In the order in which the graph gives them.
OUTPUTS = tuple(contract.OUTPUTS)
# Known to ONNX Runtime and TensorRT for years, and the newest that every node used here needs.
OPSET = 18
# Key of the model's description (JSON) in the file's metadata_props.
METADATA = "wsseg"

# Batch of 2 and an oblong size that is not the network's: the exporter takes a 1, or two equal
# numbers, for a property of the network rather than of this example.
EXAMPLE = (2, 72, 88)

# The largest half is 65504. A quarter of it leaves room for slices that are brighter than the few
# samples, and for partial sums that are larger than their total.
LARGEST_FP16 = 65504 / 4

Precision = Literal["fp32", "fp16"]
Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

logger = logging.getLogger(__name__)


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

    def forward(self, pixels: Tensor) -> Outputs:
        """Mask, areas, probability and variance of raw pixels (n, c, H, W), float32.

        mask: uint8 (n, k, H, W), 0 or 1. pixel_area: int64 (n, k), exact. soft_area: float32
        (n, k), sum of probabilities in pixels. probability: float32 (n, k, H, W), 0..1; the mask is
        its threshold, so that a reader who knows a better threshold can apply it. area_variance:
        float32 (n, k), sum of probability * (1 - probability) in pixels: 0 where every pixel is
        decided, and what the variance of the area would be if pixels were independent.

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
        area_variance = (probability * (1 - probability)).sum(-1).sum(-1)
        return mask.to(torch.uint8), pixel_area, soft_area, probability, area_variance


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


def to_onnx(graph: DeployGraph, *, channels: int, description: str) -> onnx.ModelProto:
    """Return the graph as ONNX, optimised and checked, with dynamic batch, height and width.

    channels: number of input channels. description: JSON, kept in the file's metadata under
    `wsseg`. Notes that the exporter leaves on every node (source lines, paths of this machine) are
    removed.
    """
    example = torch.zeros(EXAMPLE[0], channels, *EXAMPLE[1:])
    program = torch.onnx.export(
        graph.eval(),
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        # PROBABILITY costs a runtime that is not asked for it no time: the others come from it.
        output_names=[*OUTPUTS, PROBABILITY, AREA_VARIANCE],
        dynamic_shapes=open_axes(),
        verbose=False,
    )
    if program is None:
        raise AssertionError("the dynamo exporter returns its program")
    ClearMetadataAndDocStringPass()(program.model)
    model: onnx.ModelProto = program.model_proto
    onnx.helper.set_model_props(model, {METADATA: description})
    onnx.checker.check_model(model, full_check=True)
    return model


def open_axes() -> dict[str, dict[int, Dim]]:
    """Return the dynamic axes of the input."""
    return {INPUT: {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")}}


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write the model with its weights as one file; protobuf raises ValueError beyond 2 GiB."""
    path.write_bytes(model.SerializeToString(deterministic=True))
    logger.info("%s: %.1f MB", path.name, path.stat().st_size / 1e6)


def largest_magnitude(graph: DeployGraph, samples: Sequence[NDArray[np.float32]]) -> float:
    """Return the largest magnitude among the weights and activations of a float32 graph's network.

    samples: raw slices (c, H, W). On most CPUs ONNX Runtime computes half-precision nodes in
    float32, so a run on the CPU does not show a sum that would overflow on a GPU.
    """
    network = graph.predictor.network
    seen = [float(weight.abs().max()) for weight in network.parameters()]

    def watch(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen.extend(float(x.abs().max()) for x in (*inputs, output) if isinstance(x, Tensor))

    layers = [module for module in network.modules() if not list(module.children())]
    hooks = [layer.register_forward_hook(watch) for layer in layers]
    try:
        with torch.inference_mode():
            for sample in samples:
                graph(torch.from_numpy(sample[None]))
    finally:
        for hook in hooks:
            hook.remove()
    return max(seen)
