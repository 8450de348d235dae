"""Int8 engines: what they hold, what they compute, what of them stays in float."""

import logging
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from tests.export.quantize.conftest import (
    CLASSES,
    RATIOS,
    calibration_slices,
    inputs_of,
    make,
    traced,
    with_one_loud_channel,
)
from wsseg.export import quantise as quantize_search
from wsseg.export.parity import EngineRejectedError, ReferenceOutputs, batch_dependence
from wsseg.export.quantise import measure_ranges, most_sensitive_first, network_part, quantised


def test_an_ordinary_network_passes_the_gate_in_integers_alone(int8):
    entry, engine, folder = int8
    assert entry.float_layers == ()
    assert entry.parity.mask_iou >= 0.98
    assert entry.parity.ratio_difference_mean <= 0.002
    assert engine.precision == "int8"
    assert "onnxruntime" in entry.builder
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["model.int8.onnx", "model.onnx"]


def test_weights_are_int8_by_channel_and_values_uint8_and_the_rest_of_the_graph_is_float(int8):
    graph = onnx.load(int8[2] / "model.int8.onnx").graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    source = {node.output[0]: node for node in graph.node}
    for node in graph.node:
        if node.op_type == "Conv":
            weight = source[node.input[1]]
            assert tensors[weight.input[0]].dtype == np.int8
            assert len(tensors[weight.input[1]]) == len(tensors[weight.input[0]])
        if node.op_type == "QuantizeLinear":
            assert tensors[node.input[2]].dtype == np.uint8
    resized = [node for node in graph.node if node.op_type == "Resize"]
    rounded = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    assert resized[0].input[0] not in rounded
    assert next(n for n in graph.node if n.op_type == "Sigmoid").input[0] not in rounded


def test_integers_reach_the_kernels(int8, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        int8[2] / "model.int8.onnx", options, providers=["CPUExecutionProvider"]
    )
    found = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert found.count("QLinearConv") == 4
    assert found.count("QLinearAdd") == 1
    assert "Conv" not in found


def test_the_same_run_and_slices_give_the_same_bytes(int8, small, standard, small_model, tmp_path):
    again, _ = make(small, standard, small_model, tmp_path)
    assert again.sha256 == int8[0].sha256


def test_entropy_sets_ranges_too(small, standard, small_model, tmp_path):
    entry, _ = make(small, standard, small_model, tmp_path, "entropy")
    assert entry.parity is not None


def test_a_batch_and_mixed_sizes_give_the_mask_of_the_slice_alone(int8, standard):
    _, engine, _ = int8
    assert batch_dependence(engine, standard) is None

    def leaking(pixels):
        found = engine(pixels)
        return replace(found, masks=np.maximum.accumulate(found.masks, 0))

    assert "slice in a batch of 8 equals its mask alone in only" in str(
        batch_dependence(leaking, standard)
    )


@pytest.mark.slow
def test_layers_are_put_back_until_the_gate_passes(
    small, standard, slices, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(quantize_search, "FLOAT_AT_MOST", 1.0)  # the network has but four layers
    loud = with_one_loud_channel(small)
    with torch.inference_mode():
        raw = torch.from_numpy(slices[0][None])
        assert torch.allclose(loud(raw), small(raw), atol=1e-3)
    with caplog.at_level(logging.INFO, "wsseg.export"):
        entry, engine = make(loud, standard, traced(loud), tmp_path)
    assert set(entry.float_layers) == {"backbone.2.wide", "backbone.2.depthwise"}
    assert entry.parity.mask_iou >= 0.98
    assert "all layers in 8 bits: int8 on onnxruntime-cpu disagrees" in caplog.text
    assert batch_dependence(engine, standard) is None


def test_a_layer_in_float_is_left_in_float_by_the_runtime(small, small_model):
    part = network_part(small_model)
    ranges = measure_ranges(part, inputs_of(small), "percentile")
    middle = [layer for layer in part.layers if layer.name == "backbone.2.wide"]
    mixed = quantised(small_model, part, ranges, middle)
    exact, plain = (
        onnxruntime.InferenceSession(
            mixed.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for options in (without_optimisation(), onnxruntime.SessionOptions())
    )
    pixels = calibration_slices()[0][None]
    wanted, found = (s.run(["probability"], {"pixels": pixels})[0] for s in (exact, plain))
    # Between the two, only the order of sums differs, and with it a step of 8 bits here and there.
    assert np.abs(wanted - found).mean() < 1e-3


def without_optimisation():
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


@pytest.mark.slow
def test_the_layers_around_a_loud_channel_are_the_most_sensitive(small):
    loud = with_one_loud_channel(small)
    part = network_part(traced(loud))
    inputs = inputs_of(loud)
    ranked = most_sensitive_first(part, measure_ranges(part, inputs, "percentile"), inputs)
    assert {layer.name for layer in ranked[:2]} == {"backbone.2.wide", "backbone.2.depthwise"}
    assert len(ranked) == 4


def test_no_engine_is_made_where_nothing_is_found_to_judge_it_by(
    small, standard, small_model, tmp_path
):
    for factors, missing in (((2.2, 2.2), "no organ and no tumour"), ((1, 2.2), "no tumour")):
        limits = standard.thresholds * np.array(factors)[:, None, None]
        with pytest.raises(EngineRejectedError, match=f"finds {missing} in the slices"):
            make(small, replace(standard, thresholds=limits), small_model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_no_file_is_left_of_an_engine_that_was_refused(small, standard, small_model, tmp_path):
    empty = tuple(replace(r, probability=1 - r.probability) for r in standard.references)
    other = ReferenceOutputs(empty, standard.thresholds, CLASSES, RATIOS)
    with pytest.raises(EngineRejectedError, match="layers in float; those that suffer most"):
        make(small, other, small_model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
