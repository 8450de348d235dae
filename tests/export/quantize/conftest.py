"""A small network, its standard and its int8 engine, made once."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from wsseg.export.engines import Calibration, Job, make_int8_engine, planned_engine
from wsseg.export.graph import DeployGraph, save_onnx, to_onnx
from wsseg.export.parity import reference_outputs
from wsseg.imaging import RatioDefinition, Window
from wsseg.serve.engines.base import EngineOptions
from wsseg.serve.engines.select import open_engine
from wsseg.serve.manifest import Manifest, Parity, Training
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.networks import Network, Predictor

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
    predictor = Predictor(Preprocess(Window(low=-100, high=240), 64, 1), network).eval()
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


@pytest.fixture(scope="session")
def small(slices):
    return small_predictor(slices)


@pytest.fixture(scope="session")
def standard(small, slices):
    return reference_outputs(small, slices, THRESHOLDS, CLASSES, RATIOS)


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


@pytest.fixture(scope="session")
def small_model(small):
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
    job = Job(manifest(), predictor, standard, folder)
    made = make_int8_engine(job, planned_engine("int8"), Calibration(calibration_slices(), method))
    opened = manifest().model_copy(update={"engines": (made,)})
    return made, open_engine(folder, opened, INT8_ON_CPU)


@pytest.fixture(scope="session")
def int8(small, standard, small_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    return *make(small, standard, small_model, folder), folder
