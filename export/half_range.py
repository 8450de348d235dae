"""Whether a network's numbers fit into half precision, which a CPU run cannot tell."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsseg.export.graph import DeployGraph

# The largest half is 65504. A quarter of it leaves room for slices that are brighter than the few
# samples, and for partial sums that are larger than their total.
LARGEST = 65504 / 4


def largest_value(graph: DeployGraph, samples: Sequence[NDArray[np.float32]]) -> float:
    """Largest magnitude among weights and values between layers of a float32 graph's network.

    samples: raw slices (c, H, W). ONNX Runtime computes half-precision nodes in float32 on most
    CPUs, so a sum that overflows on a GPU looks sound there; here the size itself is looked at.
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
