"""One small network with decided answers, and the folder of a run that holds it."""

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from wsseg.export import engines as engine_onnx
from wsseg.export.graph import to_onnx
from wsseg.export.publish import ExportOptions, export_run
from wsseg.imaging.definitions import RatioDefinition, Window
from wsseg.train.data.preprocess import Front
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
    predictor = Predictor(Front(Window(low=-100, high=240), SIZE, 1), network).eval()
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


@pytest.fixture(scope="session")
def run(predictor, slices, tmp_path_factory):
    """The folder that training leaves behind."""
    folder = tmp_path_factory.mktemp("run")
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
    save_samples(list(slices), folder / SAMPLES)
    return folder


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory):
    """The whole export, PyTorch and TensorRT included: manifest, folder, and its ONNX models.

    Tracing a network takes seconds, so every test shares this one.
    """
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
def made(models, serve_models):
    """Exports take the session's models."""
    serve_models(models)


def content(folder):
    """The files of a folder by name."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}
