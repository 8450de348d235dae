"""The network of an exported graph in 8 bits: calibration, QDQ form, which layers stay float."""

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

WEIGHTS = "predictor.network."
# What integer kernels compute in ONNX Runtime and in OpenVINO alike. Resizing is not among them:
# the one rounds its 8-bit result down, the other computes it in float.
OPERATORS = ("Conv", "Relu", "Clip", "Add", "Mul", "MaxPool", "Concat")
ACTIVATIONS = ("Relu", "Clip")

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

# Inputs on which each layer is run: enough to tell apart errors that differ by a tenth.
SENSITIVITY_INPUTS = 8

# Of the network's multiplications: with more of them in float, int8 saves too little to be worth
# an engine that is less exact.
FLOAT_AT_MOST = 0.5
# Too few and enough layers in float are close if they differ by this part of them.
CLOSE = 8
# How many layers an error names.
NAMED = 5

logger = logging.getLogger(__name__)


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
            value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
            for value in (*self.model.graph.value_info, *self.model.graph.output)
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
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        return readers

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

    @cached_property
    def ranged(self) -> tuple[str, ...]:
        """The float tensors that quantised nodes read or write, but for those before an activation.

        A convolution's range is that of the activation that is computed with it.
        """
        weights = {tensor.name for tensor in self.model.graph.initializer}
        names: dict[str, None] = {}
        for node in self.model.graph.node:
            if node.name in self.quantisable:
                read = node.input[:1] if node.op_type in ("Conv", *ACTIVATIONS) else node.input
                names |= dict.fromkeys([*read, *node.output])
        for before in self.fused_ranges:
            names.pop(before, None)
        return tuple(name for name in names if name not in weights)

    @cached_property
    def fused_ranges(self) -> dict[str, str]:
        """The tensors that only an activation reads, and its output, whose range they take."""
        return {
            node.input[0]: node.output[0]
            for node in self.model.graph.node
            if node.op_type in ACTIVATIONS and len(self.readers[node.input[0]]) == 1
        }


def network_part(model: onnx.ModelProto) -> NetworkPart:
    """The network of a float32 graph that `to_onnx` made, with the names that it has there."""
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    entrance, exit_ = convolutions[0].input[0], convolutions[-1].output[0]
    part = Extractor(model).extract_model([entrance], [exit_])
    return NetworkPart(onnx.shape_inference.infer_shapes(part))


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
    inside = [name for name in part.ranged if name != part.entrance]
    model = onnx.ModelProto()
    model.CopyFrom(part.model)
    known = {value.name: value for value in model.graph.value_info}
    model.graph.output.extend(known[name] for name in inside if name != part.exit)
    session = _session(model)
    with contextlib.redirect_stdout(io.StringIO()):  # the collector prints its progress
        for first in range(0, len(inputs), TOGETHER):
            values: dict[str, list[NDArray[np.float32]]] = {name: [] for name in part.ranged}
            for image in inputs[first : first + TOGETHER]:
                outputs = session.run(inside, {part.entrance: image})
                computed = {part.entrance: image, **dict(zip(inside, outputs, strict=True))}
                for name, kept in values.items():
                    # An odd step, so that the values do not all come from the same columns.
                    step = -(-computed[name].size // COUNTED)
                    kept.append(computed[name].ravel()[:: step + 1 - step % 2])
            collector.collect({name: np.concatenate(kept) for name, kept in values.items()})
        result = collector.compute_collection_result()
    ranges = {name: (float(low), float(high)) for name, (low, high, *_) in result.items()}
    return ranges | {before: ranges[after] for before, after in part.fused_ranges.items()}


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


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
    from onnxruntime.quantization import QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
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
    """Insert a clip that changes nothing before convolutions that stay in float.

    ONNX Runtime takes a float convolution between DequantizeLinear and QuantizeLinear for one whose
    weights were forgotten, and rounds them, to one scale for all channels
    (github.com/microsoft/onnxruntime/pull/25673): with a node between, it does not.
    """
    rounded = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    bounds = {"float_low": np.finfo(np.float32).min, "float_high": np.finfo(np.float32).max}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in bounds.items()
    )
    for index, node in reversed(list(enumerate(model.graph.node))):
        if node.name in kept and node.op_type == "Conv" and node.input[0] in rounded:
            name = f"{node.name}_input"
            clip = helper.make_node("Clip", [node.input[0], *bounds], [name], name=name)
            node.input[0] = name
            model.graph.node.insert(index, clip)


def most_sensitive_first(part: NetworkPart, ranges: Ranges, inputs: Inputs) -> list[Layer]:
    """Return the part's layers in descending order of sensitivity to 8 bits.

    The sensitivity of a layer is the mean square change of the coarse logits when this layer alone
    is in integers, over a few of the normalised inputs (1, 3, s, s).
    """
    shown = [inputs[index] for index in evenly(len(inputs), SENSITIVITY_INPUTS)]
    exact = _logits(part, part.model, shown)

    def harm(layer: Layer) -> float:
        moved = _logits(part, with_integers(part.model, ranges, layer.nodes), shown) - exact
        return float(np.square(moved, dtype=np.float64).mean())

    return sorted(part.layers, key=harm, reverse=True)


def _logits(part: NetworkPart, model: onnx.ModelProto, inputs: Inputs) -> NDArray[np.float32]:
    session = _session(model)
    return np.concatenate([session.run([part.exit], {part.entrance: x})[0] for x in inputs])


@dataclass(frozen=True)
class QuantisedEngine:
    """An engine that agrees: its figures, and its layers in float, most sensitive first."""

    parity: Parity
    in_float: tuple[Layer, ...]


def search(
    attempt: Callable[[Sequence[Layer]], Parity], rank: Callable[[], list[Layer]]
) -> QuantisedEngine:
    """Find an engine that agrees with PyTorch with as few layers in float as possible.

    Tries no layer in float, then the 1, 2, 4, 8 ... most sensitive ones until the engine agrees,
    then bisects between too few and enough until the two are close. attempt: writes the engine with
    the given layers in float over the last one; raises EngineRejectedError where it disagrees.
    rank: returns all layers, most sensitive first; called only if needed. Raises
    EngineRejectedError, naming the most sensitive layers, where more than FLOAT_AT_MOST of the
    multiplications would have to stay in float.
    """
    last = _tried(attempt, ())
    if isinstance(last, QuantisedEngine):
        return last
    ranked, too_few = rank(), 0
    done = list(accumulate(layer.products for layer in ranked))
    most = sum(products <= FLOAT_AT_MOST * done[-1] for products in done)
    doubled = [2**power for power in range(most.bit_length()) if 2**power < most]
    for count in [*doubled, most] if most else []:
        last = _tried(attempt, tuple(ranked[:count]))
        if isinstance(last, QuantisedEngine):
            return _fewest(attempt, last, too_few)
        too_few = count
    raise EngineRejectedError(
        f"{last}, with {too_few} of {len(ranked)} layers in float; those that suffer most "
        f"from 8 bits: {_names(ranked[:NAMED])}"
    )


def _fewest(
    attempt: Callable[[Sequence[Layer]], Parity], passed: QuantisedEngine, too_few: int
) -> QuantisedEngine:
    """Return an engine with fewer of the passed one's layers in float, but more than too_few."""
    last: QuantisedEngine | EngineRejectedError = passed
    while (gap := len(passed.in_float) - too_few) > max(1, len(passed.in_float) // CLOSE):
        last = _tried(attempt, passed.in_float[: too_few + gap // 2])
        if isinstance(last, QuantisedEngine):
            passed = last
        else:
            too_few += gap // 2
    # An attempt that failed has overwritten the engine that passed.
    if last is not passed:
        passed = QuantisedEngine(attempt(passed.in_float), passed.in_float)
    return passed


def _tried(
    attempt: Callable[[Sequence[Layer]], Parity], in_float: tuple[Layer, ...]
) -> QuantisedEngine | EngineRejectedError:
    """Return the engine with these layers in float, or the error that rejects it; log either."""
    layers = (
        f"{len(in_float)} layers in float ({_names(in_float)})"
        if in_float
        else "all layers in 8 bits"
    )
    try:
        passed = QuantisedEngine(attempt(in_float), in_float)
    except EngineRejectedError as error:
        logger.info("%s: %s", layers, error)
        return error
    logger.info("%s: the engine passes", layers)
    return passed


def _names(layers: Sequence[Layer]) -> str:
    return ", ".join(layer.name for layer in layers)
