"""The gate of int8 engines refuses what is broken on purpose."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from wsseg.export.parity import Candidate, check
from wsseg.serve.engines.base import Prediction


def spoilt(model, change):
    """The quantised model with some of its numbers changed."""
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    for tensor in wrong.graph.initializer:
        tensor.CopyFrom(
            numpy_helper.from_array(change(tensor.name, numpy_helper.to_array(tensor)), tensor.name)
        )
    return wrong


def engine_of(model):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = ["mask", "pixel_area", "soft_area"]
    return Candidate(
        run=lambda pixels: Prediction(*session.run(names, {"pixels": pixels})),
        provider="test",
        precision="int8",
        probability=lambda pixels: session.run(["probability"], {"pixels": pixels})[0],
    )


def scales(model):
    """Names of the scales of values between layers."""
    return {n.input[1] for n in model.graph.node if n.op_type == "QuantizeLinear"}


def test_the_gate_refuses_a_wrong_scale_swapped_channels_and_no_numbers(int8, standard):
    good = onnx.load(int8[2] / "model.int8.onnx")
    assert check(engine_of(good), standard).failure is None
    last = "predictor.network.classifier.weight_quantized"
    faults = {
        "scale": lambda name, x: x * np.float32(0.7) if name in scales(good) else x,
        "swap": lambda name, x: x[::-1].copy() if name == last else x,
        "nan": lambda name, x: x * np.float32(np.nan) if name in scales(good) else x,
    }
    for fault, change in faults.items():
        failure = check(engine_of(spoilt(good, change)), standard).failure
        assert failure is not None, fault


def test_a_probability_that_is_no_number_is_refused_though_the_masks_agree(int8, standard):
    candidate = engine_of(onnx.load(int8[2] / "model.int8.onnx"))

    def nowhere(pixels):
        return np.full_like(candidate.probability(pixels), np.nan)

    failure = check(replace(candidate, probability=nowhere), standard).failure
    assert failure == "a probability differs by inf (at most 1.0)"
