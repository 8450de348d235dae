"""As many layers in integers as the gate allows: the most sensitive ones go back to float."""

import contextlib
import io
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.utils import Extractor

from wsseg.export.calibration import evenly
from wsseg.export.parity import EngineRejectedError
from wsseg.serve.manifest import Parity

# The network inside an exported graph: what may be quantised, cut out to be looked at alone.

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


# The range of every value between layers, measured on calibration slices.

Method = Literal["percentile", "entropy"]
Inputs = Sequence[NDArray[np.float32]]
Ranges = Mapping[str, tuple[float, float]]
"""Lowest and highest value of each tensor that 8 bits must tell apart."""

# Share of the values that lies inside the range: beyond it are single outliers, which would make
# the steps of all others coarser.
PERCENTILE = 99.999
BINS: dict[Method, int] = {"percentile": 2048, "entropy": 1024}
QUANTISED_BINS = 128
# Values of one tensor and slice that are counted, evenly spaced: 128 slices then give 4 million,
# and 40 of them lie beyond the percentile. All of them would take longer than the network.
COUNTED = 1 << 15
# Slices whose values are counted at once. The first ones set the width of a bin, so that a single
# black slice must not be alone.
TOGETHER = 16


def measure_ranges(part: NetworkPart, inputs: Inputs, method: Method) -> Ranges:
    """The range of every tensor that quantised nodes read or write.

    inputs: normalised slices (1, 3, s, s). One slice is computed at a time, and of each tensor
    at most COUNTED values are kept of TOGETHER slices: memory does not grow with their number.
    """
    from onnxruntime.quantization.calibrate import HistogramCollector

    collector = HistogramCollector(
        method=method,
        symmetric=False,
        num_bins=BINS[method],
        num_quantized_bins=QUANTISED_BINS,
        percentile=PERCENTILE,
        scenario="same",
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        for values in _values(part, inputs):
            collector.collect(values)
        found = collector.compute_collection_result()
    ranges = {name: (float(low), float(high)) for name, (low, high, *_) in found.items()}
    for node in part.model.graph.node:
        if node.op_type in ACTIVATIONS and len(part.readers[node.input[0]]) == 1:
            ranges[node.input[0]] = ranges[node.output[0]]
    return ranges


def _measured(part: NetworkPart) -> list[str]:
    """The float tensors that quantised nodes read or write, but for those before an activation.

    A convolution's range is that of the activation that is computed with it.
    """
    weights = {tensor.name for tensor in part.model.graph.initializer}
    names: dict[str, None] = {}
    for node in part.model.graph.node:
        if node.name in part.quantisable:
            read = node.input[:1] if node.op_type in ("Conv", *ACTIVATIONS) else node.input
            names |= dict.fromkeys([*read, *node.output])
    for node in part.model.graph.node:
        if node.op_type in ACTIVATIONS and len(part.readers[node.input[0]]) == 1:
            names.pop(node.input[0], None)
    return [name for name in names if name not in weights]


def _values(part: NetworkPart, inputs: Inputs) -> Iterable[dict[str, NDArray[np.float32]]]:
    names = _measured(part)
    inside = [name for name in names if name != part.entrance]
    session = _session_of(part, inside)
    for first in range(0, len(inputs), TOGETHER):
        kept: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
        for image in inputs[first : first + TOGETHER]:
            answers = dict(zip(inside, session.run(inside, {part.entrance: image}), strict=True))
            for name in names:
                kept[name].append(_thinned(answers.get(name, image)))
        yield {name: np.concatenate(arrays) for name, arrays in kept.items()}


def _thinned(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most COUNTED values, evenly spaced; an odd step, so that it keeps to no one column."""
    step = -(-values.size // COUNTED)
    return values.ravel()[:: step + 1 - step % 2]


def _session_of(part: NetworkPart, names: Sequence[str]) -> Any:
    """The part with all these values as outputs."""
    import onnxruntime

    model = onnx.ModelProto()
    model.CopyFrom(part.model)
    known = {value.name: value for value in model.graph.value_info}
    model.graph.output.extend(known[name] for name in names if name != part.exit)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


# A float graph with pairs of QuantizeLinear and DequantizeLinear around its integer nodes.


def quantised(
    model: onnx.ModelProto, part: NetworkPart, ranges: Ranges, in_float: Collection[Layer]
) -> onnx.ModelProto:
    """The model with its network in 8 bits: uint8 values, int8 weights by output channel.

    model: the exported graph or `part.model` itself. ranges: see `measure_ranges`. in_float:
    layers of the part that stay float32; values between one of them and an integer layer are
    rounded to 8 bits on the way.
    """
    kept = {name for layer in in_float for name in layer.nodes}
    made = with_integers(model, ranges, part.quantisable - kept)
    if kept:
        _keep_float(made, kept)
    return made


def with_integers(model: onnx.ModelProto, ranges: Ranges, nodes: Iterable[str]) -> onnx.ModelProto:
    """The model with these nodes alone in integers."""
    from onnxruntime.quantization import (
        CalibrationMethod,
        QDQQuantizer,
        QuantType,
        TensorData,
        TensorsData,
    )
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    shaped = onnx.shape_inference.infer_shapes(model)
    # Without this note it would infer them once more, by way of the disk.
    add_infer_metadata(shaped)
    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    quantizer = QDQQuantizer(
        shaped,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=sorted(nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=list(OPERATORS),
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    made: onnx.ModelProto = quantizer.model.model
    return made


def _keep_float(model: onnx.ModelProto, kept: Collection[str]) -> None:
    """Have convolutions that stay in float read through a clip that changes nothing.

    ONNX Runtime takes a float convolution between DequantizeLinear and QuantizeLinear for one whose
    weights were forgotten, and rounds them, to one scale for all channels
    (github.com/microsoft/onnxruntime/pull/25673): with a node between, it does not.
    """
    rounded = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    bounds = {"float_low": np.finfo(np.float32).min, "float_high": np.finfo(np.float32).max}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in bounds.items()
    )
    for place, node in reversed(list(enumerate(model.graph.node))):
        if node.name in kept and node.op_type == "Conv" and node.input[0] in rounded:
            name = f"{node.name}_input"
            clip = helper.make_node("Clip", [node.input[0], *bounds], [name], name=name)
            node.input[0] = name
            model.graph.node.insert(place, clip)


# Which layers of a network suffer most from 8 bits.

# Enough to tell layers apart whose errors differ by a tenth; each layer is run on all of them.
LOOKED_AT = 8


def most_sensitive_first(part: NetworkPart, ranges: Ranges, inputs: Inputs) -> list[Layer]:
    """The part's layers, by how far each alone, in integers, moves the coarse logits.

    Root mean square over a few of the normalised inputs (1, 3, s, s).
    """
    shown = [inputs[place] for place in evenly(len(inputs), LOOKED_AT)]
    exact = _logits(part, part.model, shown)

    def harm(layer: Layer) -> float:
        moved = _logits(part, with_integers(part.model, ranges, layer.nodes), shown) - exact
        return float(np.square(moved, dtype=np.float64).mean())

    return sorted(part.layers, key=harm, reverse=True)


def _logits(part: NetworkPart, model: onnx.ModelProto, inputs: Inputs) -> NDArray[np.float32]:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.concatenate([session.run([part.exit], {part.entrance: x})[0] for x in inputs])


# Of the network's multiplications: with more of them in float, int8 saves too little to be worth
# an engine that is less exact.
FLOAT_AT_MOST = 0.5
# Too few and enough layers in float are close if they differ by this part of them.
CLOSE = 8
# How many layers an error names.
NAMED = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """An engine that passed: its figures, and its layers in float, most sensitive first."""

    parity: Parity
    in_float: tuple[Layer, ...]


def search(attempt: Callable[[Sequence[Layer]], Parity], rank: Callable[[], list[Layer]]) -> Found:
    """Attempt the engine with no layer in float, then with 1, 2, 4, 8 ... until one passes.

    Then with fewer again, half-way between too few and enough, until the two are close. attempt:
    makes the engine with these layers in float in the place of the last one, and raises
    EngineRejectedError where it disagrees with PyTorch. rank: all layers, most sensitive first;
    called if it is needed. Raises EngineRejectedError, naming the layers that hurt most, where more
    than FLOAT_AT_MOST of the work would have to stay in float.
    """
    last = _tried(attempt, ())
    if isinstance(last, Found):
        return last
    ranked, too_few = rank(), 0
    for count in _doubled(_most_in_float(ranked)):
        last = _tried(attempt, tuple(ranked[:count]))
        if isinstance(last, Found):
            return _fewest(attempt, last, too_few)
        too_few = count
    raise EngineRejectedError(
        f"{last}, with {too_few} of {len(ranked)} layers in float; those that suffer most "
        f"from 8 bits: {_names(ranked[:NAMED])}"
    )


def _doubled(most: int) -> list[int]:
    """1, 2, 4 ... and `most`."""
    return [2**power for power in range(most.bit_length()) if 2**power < most] + [most] * (most > 0)


def _fewest(attempt: Callable[[Sequence[Layer]], Parity], found: Found, too_few: int) -> Found:
    """The engine with fewer of the found one's layers in float, but more than too few."""
    last: Found | EngineRejectedError = found
    while (gap := len(found.in_float) - too_few) > max(1, len(found.in_float) // CLOSE):
        last = _tried(attempt, found.in_float[: too_few + gap // 2])
        if isinstance(last, Found):
            found = last
        else:
            too_few += gap // 2
    # The one that failed last has taken the place of the one that is wanted.
    return found if last is found else Found(attempt(found.in_float), found.in_float)


def _tried(
    attempt: Callable[[Sequence[Layer]], Parity], kept: tuple[Layer, ...]
) -> Found | EngineRejectedError:
    """The engine with these layers in float, or why it is none; the log has both."""
    layers = f"{len(kept)} layers in float ({_names(kept)})" if kept else "all layers in 8 bits"
    try:
        found = Found(attempt(kept), kept)
    except EngineRejectedError as error:
        logger.info("%s: %s", layers, error)
        return error
    logger.info("%s: the engine passes", layers)
    return found


def _most_in_float(ranked: Sequence[Layer]) -> int:
    """How many of the first layers have no more than FLOAT_AT_MOST of all multiplications."""
    done = list(accumulate(layer.products for layer in ranked))
    return sum(products <= FLOAT_AT_MOST * done[-1] for products in done)


def _names(layers: Sequence[Layer]) -> str:
    return ", ".join(layer.name for layer in layers)
