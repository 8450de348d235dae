"""Two networks with decided answers, the folders of runs that hold them, and an export.

MobileNetV2 is exported once. Tests that export again take the small network, whose ONNX models are
made once too.
"""

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests.small_network import small_network
from wsseg.export import engines as engine_onnx
from wsseg.export.graph import DeployGraph, to_onnx
from wsseg.export.publish import ExportOptions, export_run
from wsseg.imaging import RatioDefinition, Window
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.networks import Predictor, build_network, last_layer
from wsseg.train.run_folder import RECORD, SAMPLES, WEIGHTS, RunRecord, save_samples, save_weights

CLASSES = ("organ", "tumour")
RATIOS = (
    RatioDefinition(name="organ", numerator="organ"),
    RatioDefinition(name="tumour in organ", numerator="tumour", denominator="organ"),
)
SIZE = 64
THRESHOLDS = (0.5, 0.4)
OPTIONS = ExportOptions(thresholds=THRESHOLDS, name="two organs")


def raw_slices(seed=0):
    """Smooth slices of several sizes with Hounsfield-like values, some outside the window."""
    random = np.random.default_rng(seed)
    shapes = [(64, 64), (75, 96), (130, 70), (64, 200)]
    coarse = [torch.from_numpy(random.normal(50, 150, (1, 1, 6, 6))) for _ in shapes]
    return tuple(
        nn.functional.interpolate(grid, size=shape, mode="bicubic")[0].float().numpy()
        for grid, shape in zip(coarse, shapes, strict=True)
    )


def make_predictor():
    """A network whose batch norms have moved, with an organ in a fifth of all pixels.

    The tumour covers half as many. Few logits are near zero, so that a ratio hangs on the rounding
    of few pixels.
    """
    torch.manual_seed(0)
    network = build_network("mobilenet_v2", classes=2, channels=1).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            running = dict(layer.named_buffers())
            running["running_mean"].normal_(0, 0.1)
            running["running_var"].uniform_(0.5, 2)
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(0, 0.1)
    predictor = Predictor(Preprocess(Window(low=-100, high=240), SIZE, 1), network).eval()
    weight, bias = last_layer(network).parameters()
    with torch.no_grad():
        logits = torch.cat(
            [predictor.logits(torch.from_numpy(x[None])).flatten(2) for x in raw_slices()], 2
        )
        scale = 3 / logits.std((0, 2)) * torch.tensor([1, -1])
        weight.mul_(scale[:, None, None, None])
        edges = torch.stack([logits[0, 0].quantile(0.78), logits[0, 1].quantile(0.08)])
        bias.copy_((bias - edges) * scale)
    return predictor


@pytest.fixture(scope="session")
def predictor():
    return make_predictor()


@pytest.fixture(scope="session")
def slices():
    return raw_slices()


def write_run(folder, predictor):
    """Write what training leaves behind."""
    record = RunRecord(
        classes=CLASSES,
        ratios=RATIOS,
        channels=1,
        window=predictor.front.window,
        size=SIZE,
        network="mobilenet_v2",
        preset="paper",
        initial_weights="none",
        cases=12,
        cases_sha256="ab" * 32,
        epochs=2,
        chosen_epoch=1,
        chosen_by="last",
        seed=0,
        metrics={"iou": 0.5, "dice": float("nan")},
        thresholds=THRESHOLDS,
        wsseg_version="0.1.0",
    )
    (folder / RECORD).write_text(json.dumps(record.model_dump()))
    save_weights(predictor.network, folder / WEIGHTS)
    save_samples(list(raw_slices()), folder / SAMPLES)
    return folder


@pytest.fixture(scope="session")
def exported(predictor, tmp_path_factory):
    """The whole export, PyTorch and TensorRT included: manifest, folder, and its ONNX models."""
    run = write_run(tmp_path_factory.mktemp("run"), predictor)
    out = tmp_path_factory.mktemp("exported") / "model"
    options = ExportOptions(
        name="two organs", thresholds=THRESHOLDS, torch=True, trt=True, gpu_arch=("sm_89",)
    )
    models: dict[str, onnx.ModelProto] = {}

    def record(graph, **settings):
        return models.setdefault(precision_of(graph), to_onnx(graph, **settings))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_onnx, "to_onnx", record)
        manifest = export_run(run, out, options)
    return manifest, out, models


@pytest.fixture(scope="session")
def models(exported):
    """The ONNX models of both precisions."""
    return exported[2]


@pytest.fixture(scope="session")
def small_predictor():
    with small_network():
        return make_predictor()


@pytest.fixture(scope="session")
def small_run(small_predictor, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), small_predictor)


@pytest.fixture
def run(small_run):
    """The folder of a run of the small network, which can be exported in this test."""
    with small_network():
        yield small_run


@pytest.fixture(scope="session")
def small_models(small_predictor):
    """The small network's ONNX models of both precisions, with a description that is a stub."""
    return {
        precision: to_onnx(
            DeployGraph(small_predictor, THRESHOLDS, precision), channels=1, description="{}"
        )
        for precision in ("fp32", "fp16")
    }


def precision_of(graph):
    half = next(graph.predictor.network.parameters()).dtype == torch.float16
    return "fp16" if half else "fp32"


@pytest.fixture
def serve_models(monkeypatch):
    """Puts ready models, by precision, in place of tracing the network."""

    def serve(ready):
        monkeypatch.setattr(
            engine_onnx, "to_onnx", lambda graph, **settings: ready[precision_of(graph)]
        )

    return serve


@pytest.fixture
def made(small_models, serve_models):
    """Exports of the small network take its ready models."""
    serve_models(small_models)


def content(folder):
    """The files of a folder by name."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}
