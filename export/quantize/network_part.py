"""The network inside an exported graph: what may be quantised, cut out to be looked at alone."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import onnx
from onnx.utils import Extractor

WEIGHTS = "predictor.network."
# What integer kernels compute in ONNX Runtime and in OpenVINO alike. Resizing is not among them:
# the one rounds its 8-bit result down, the other computes it in float.
OPERATORS = ("Conv", "Relu", "Clip", "Add", "Mul", "MaxPool", "Concat")
ACTIVATIONS = ("Relu", "Clip")


@dataclass(frozen=True)
class Layer:
    """A convolution, and the residual sum and the activation that are computed with it.

    name: of its weight in the run. nodes: of the graph, the convolution first. products:
    multiplications a slice, as a measure of the time it takes.
    """

    name: str
    nodes: tuple[str, ...]
    products: int


@dataclass(frozen=True)
class NetworkPart:
    """The nodes from the network's normalised input (n, 3, s, s) to its coarse logits, float32.

    The intensity window, both resizings, sigmoid, thresholds and areas are no part of it.
    """

    model: onnx.ModelProto

    @property
    def entrance(self) -> str:
        """Name of the normalised input."""
        return str(self.model.graph.input[0].name)

    @property
    def exit(self) -> str:
        """Name of the coarse logits."""
        return str(self.model.graph.output[0].name)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All convolutions, in the order in which they are computed."""
        shapes = {
            v.name: _shape(v) for v in (*self.model.graph.value_info, *self.model.graph.output)
        }
        sizes = {w.name: tuple(w.dims) for w in self.model.graph.initializer}
        layers = []
        for node in self.model.graph.node:
            if node.op_type == "Conv":
                name = node.input[1].removeprefix(WEIGHTS).removesuffix(".weight")
                products = prod(shapes[node.output[0]][2:]) * prod(sizes[node.input[1]])
                layers.append(Layer(name, self._fused(node), products))
        return tuple(layers)

    def _fused(self, node: onnx.NodeProto) -> tuple[str, ...]:
        """A node, and what follows it without a branch."""
        after = self.readers.get(node.output[0], [])
        if len(after) == 1 and after[0].op_type in ("Add", *ACTIVATIONS):
            return (str(node.name), *self._fused(after[0]))
        return (str(node.name),)

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each value."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def quantisable(self) -> frozenset[str]:
        """Names of the nodes that integer kernels can compute; shapes are concatenated too."""
        floats = {
            value.name
            for value in (*self.model.graph.value_info, *self.model.graph.output)
            if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        }
        return frozenset(
            node.name
            for node in self.model.graph.node
            if node.op_type in OPERATORS and node.output[0] in floats
        )


def network_part(model: onnx.ModelProto) -> NetworkPart:
    """The network of a float32 graph that `to_onnx` made, with the names that it has there."""
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    entrance, exit_ = convolutions[0].input[0], convolutions[-1].output[0]
    part = Extractor(model).extract_model([entrance], [exit_])
    return NetworkPart(onnx.shape_inference.infer_shapes(part))


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
