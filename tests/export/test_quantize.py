import copy
import logging
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from wsseg.export.difference import Standard
from wsseg.export.engine_int8 import Calibration, make_int8_engine
from wsseg.export.engine_onnx import planned_engine
from wsseg.export.graph import DeployGraph
from wsseg.export.invariance import unsteadiness
from wsseg.export.onnx_file import save_onnx, to_onnx
from wsseg.export.parity import Candidate, EngineRejectedError, check, make_standard
from wsseg.export.quantize import search as quantize_search
from wsseg.export.quantize.network_part import Layer, network_part
from wsseg.export.quantize.qdq import quantised
from wsseg.export.quantize.ranges import measure_ranges
from wsseg.export.quantize.search import search
from wsseg.export.quantize.sensitivity import most_sensitive_first
from wsseg.imaging.definitions import RatioDefinition, Window
from wsseg.serve.choose import open_engine
from wsseg.serve.engine import Prediction
from wsseg.serve.engine_options import EngineOptions
from wsseg.serve.manifest import Manifest, Parity, Training
from wsseg.train.front import Front
from wsseg.train.networks import Network
from wsseg.train.predictor import Predictor

CLASSES = ("organ", "tumour")
RATIOS = tuple(RatioDefinition(name=name, numerator=name) for name in CLASSES)
THRESHOLDS = (0.5, 0.5)
INT8_ON_CPU = EngineOptions(device="cpu", engine="onnxruntime", precision="int8")
PARITY = Parity(
    slices=1,
    provider="none",
    mask_agreement=1,
    probability_difference=0,
    ratio_difference=0,
    ratio_difference_mean=0,
    mask_iou=1,
)


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.wide = nn.Conv2d(width, width, 3, padding=1)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x):
        return x + self.depthwise(self.wide(x).relu())


def small_predictor(slices):
    """Three kinds of convolution with a residual sum, decided logits for the slices."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU6(), Residual(8))
    classifier = nn.Conv2d(8, 2, 1)
    network = Network("mobilenet_v2", backbone, classifier, nn.Identity())
    predictor = Predictor(Front(Window(low=-100, high=240), 64, 1), network).eval()
    with torch.no_grad():
        logits = torch.cat(
            [predictor.logits(torch.from_numpy(x[None])).flatten(2) for x in slices], 2
        )
        scale = 4 / logits.std((0, 2))
        classifier.weight.mul_(scale[:, None, None, None])
        assert classifier.bias is not None
        classifier.bias.copy_((classifier.bias - logits.quantile(0.7, dim=2)[0]) * scale)
    return predictor


def with_one_loud_channel(predictor):
    """The same function, but one channel in the middle is 3000 times larger than the others."""
    loud = copy.deepcopy(predictor)
    block = loud.network.backbone[2]
    with torch.no_grad():
        block.wide.weight[0] *= 3000
        block.wide.bias[0] *= 3000
        block.depthwise.weight[0] /= 3000
    return loud


@pytest.fixture(scope="module")
def small(slices):
    return small_predictor(slices)


@pytest.fixture(scope="module")
def standard(small, slices):
    return make_standard(small, slices, THRESHOLDS, CLASSES, RATIOS)


def manifest():
    return Manifest(
        name="small",
        classes=CLASSES,
        ratios=RATIOS,
        channels=1,
        window=Window(low=-100, high=240),
        network_size=64,
        thresholds=THRESHOLDS,
        training=Training(
            preset="", network="", weights="", cases=1, cases_sha256="", epochs=1, seed=0
        ),
        engines=(planned_engine("int8"),),
        wsseg_version="0",
        created="",
    )


def traced(predictor):
    graph = DeployGraph(predictor, THRESHOLDS, "fp32")
    return to_onnx(graph, channels=1, description="{}")


@pytest.fixture(scope="module")
def model(small):
    return traced(small)


def calibration_slices(count=6):
    random = np.random.default_rng(1)
    coarse = torch.from_numpy(random.normal(50, 150, (count, 1, 6, 6)))
    return list(nn.functional.interpolate(coarse, size=(80, 64), mode="bicubic").float().numpy())


def inputs_of(predictor):
    with torch.inference_mode():
        return [
            predictor.front(torch.from_numpy(raw[None])).numpy() for raw in calibration_slices()
        ]


def make(predictor, standard, model, folder, method="percentile"):
    save_onnx(model, folder / "model.onnx")
    entry = planned_engine("int8")
    calibration = Calibration(calibration_slices(), method)
    made = make_int8_engine(manifest(), entry, predictor, standard, calibration, folder)
    opened = manifest().model_copy(update={"engines": (made,)})
    return made, open_engine(folder, opened, INT8_ON_CPU)


@pytest.fixture(scope="module")
def made(small, standard, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    return *make(small, standard, model, folder), folder


def test_an_ordinary_network_passes_the_gate_in_integers_alone(made):
    entry, engine, folder = made
    assert entry.float_layers == ()
    assert entry.parity.mask_iou >= 0.98
    assert entry.parity.ratio_difference_mean <= 0.002
    assert engine.precision == "int8"
    assert "onnxruntime" in entry.builder
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["model.int8.onnx", "model.onnx"]


def test_weights_are_int8_by_channel_and_values_uint8_and_the_rest_of_the_graph_is_float(made):
    graph = onnx.load(made[2] / "model.int8.onnx").graph
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


def test_integers_reach_the_kernels(made, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        made[2] / "model.int8.onnx", options, providers=["CPUExecutionProvider"]
    )
    found = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert found.count("QLinearConv") == 4
    assert found.count("QLinearAdd") == 1
    assert "Conv" not in found


def test_the_same_run_and_slices_give_the_same_bytes(made, small, standard, model, tmp_path):
    again, _ = make(small, standard, model, tmp_path)
    assert again.sha256 == made[0].sha256


def test_entropy_sets_ranges_too(small, standard, model, tmp_path):
    entry, _ = make(small, standard, model, tmp_path, "entropy")
    assert entry.parity is not None


def test_a_batch_and_mixed_sizes_give_the_mask_of_the_slice_alone(made, standard):
    _, engine, _ = made
    assert unsteadiness(engine, standard) is None

    def leaking(pixels):
        found = engine(pixels)
        return replace(found, masks=np.maximum.accumulate(found.masks, 0))

    assert "between a batch of 1 and of 8" in str(unsteadiness(leaking, standard))


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
    assert unsteadiness(engine, standard) is None


def test_a_layer_in_float_is_left_in_float_by_the_runtime(small, model):
    part = network_part(model)
    ranges = measure_ranges(part, inputs_of(small), "percentile")
    middle = [layer for layer in part.layers if layer.name == "backbone.2.wide"]
    mixed = quantised(model, part, ranges, middle)
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


def test_the_layers_around_a_loud_channel_are_the_most_sensitive(small):
    loud = with_one_loud_channel(small)
    part = network_part(traced(loud))
    inputs = inputs_of(loud)
    ranked = most_sensitive_first(part, measure_ranges(part, inputs, "percentile"), inputs)
    assert {layer.name for layer in ranked[:2]} == {"backbone.2.wide", "backbone.2.depthwise"}
    assert len(ranked) == 4


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


def test_the_gate_refuses_a_wrong_scale_swapped_channels_and_no_numbers(made, standard):
    good = onnx.load(made[2] / "model.int8.onnx")
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


def test_a_probability_that_is_no_number_is_refused_though_the_masks_agree(made, standard):
    candidate = engine_of(onnx.load(made[2] / "model.int8.onnx"))

    def nowhere(pixels):
        return np.full_like(candidate.probability(pixels), np.nan)

    failure = check(replace(candidate, probability=nowhere), standard).failure
    assert failure == "a probability differs by inf (at most 1.0)"


def layers(*products):
    return [Layer(f"layer{place}", (), count) for place, count in enumerate(products)]


def test_the_search_gives_back_one_two_four_layers_and_stops_at_the_first_that_passes():
    tried = []

    def attempt(in_float):
        tried.append(len(in_float))
        if len(in_float) < 4:
            raise EngineRejectedError("no")
        return PARITY

    found = search(attempt, lambda: layers(*[1] * 20))
    assert tried == [0, 1, 2, 4]
    assert [layer.name for layer in found.in_float] == ["layer0", "layer1", "layer2", "layer3"]


def test_layers_are_not_ranked_where_none_is_in_the_way():
    def never():
        raise AssertionError

    assert search(lambda in_float: PARITY, never).in_float == ()


def test_a_search_that_would_put_more_than_half_the_work_back_names_the_layers_that_hurt():
    tried = []

    def attempt(in_float):
        tried.append(len(in_float))
        raise EngineRejectedError("masks differ")

    with pytest.raises(EngineRejectedError, match=r"masks differ, with 2 of 4 .*: layer0, la"):
        search(attempt, lambda: layers(10, 30, 30, 30))
    assert tried == [0, 1, 2]


def test_no_file_is_left_of_an_engine_that_was_refused(small, standard, model, tmp_path):
    empty = tuple(replace(r, probability=1 - r.probability) for r in standard.references)
    other = Standard(empty, standard.thresholds, CLASSES, RATIOS)
    with pytest.raises(EngineRejectedError, match="layers in float; those that suffer most"):
        make(small, other, model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
