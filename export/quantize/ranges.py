"""The range of every value between layers, measured on calibration slices."""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from wsseg.export.quantize.network_part import ACTIVATIONS, NetworkPart

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
