"""A float graph with pairs of QuantizeLinear and DequantizeLinear around its integer nodes."""

from collections.abc import Collection, Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from wsseg.export.quantize.network_part import OPERATORS, Layer, NetworkPart
from wsseg.export.quantize.ranges import Ranges


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
