"""ResNets at output stride 16: what stays, what is saved, what is published."""

import copy
from typing import get_args

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import Bottleneck, ResNet

from tests.export.conftest import raw_slices
from wsseg.export.publish import ExportOptions, export_run
from wsseg.export.stride import AT_STRIDE_8, Between, at_stride_16, coarsened
from wsseg.imaging import RatioDefinition, Window, WssegError
from wsseg.serve.engines.base import EngineOptions
from wsseg.serve.engines.select import open_engine
from wsseg.serve.manifest import load_model
from wsseg.train.config import NetworkName
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.networks import Predictor, build_network, last_layer
from wsseg.train.run_folder import (
    SAMPLES,
    WEIGHTS,
    RunRecord,
    keep_record,
    save_samples,
    save_weights,
)

pytestmark = pytest.mark.xdist_group("exports")

WINDOW = Window(low=-100, high=240)
RECORD = RunRecord(
    classes=("organ",),
    ratios=(RatioDefinition(name="organ", numerator="organ"),),
    channels=1,
    window=WINDOW,
    size=64,
    network="resnet50",
    preset="wsseg",
    initial_weights="none",
    cases=4,
    cases_sha256="ab" * 32,
    epochs=1,
    chosen_epoch=1,
    chosen_by="last",
    seed=0,
    metrics={},
    thresholds=(0.5,),
    wsseg_version="0.1.0",
)


def predictor_of(name, size):
    """A predictor of one class that takes about a third of the pixels."""
    torch.manual_seed(0)
    network = build_network(name, classes=1, channels=1).eval()
    predictor = Predictor(Preprocess(WINDOW, size, 1), network).eval()
    weight, bias = last_layer(network).parameters()
    with torch.no_grad():
        logits = torch.cat(
            [predictor.logits(torch.from_numpy(x[None])).ravel() for x in raw_slices()]
        )
        weight.mul_(3 / logits.std())
        bias.copy_((bias - logits.quantile(0.7)) * 3 / logits.std())
    return predictor


@pytest.fixture(scope="module")
def resnet():
    return predictor_of("resnet50", 64)


@pytest.mark.parametrize("size", [64, 72])
@torch.no_grad()
def test_deep_features_are_those_of_the_even_cells(resnet, size):
    fine = Predictor(Preprocess(WINDOW, size, 1), copy.deepcopy(resnet.network)).eval()
    coarse = at_stride_16(fine)
    image = torch.randn(1, 3, size, size)
    found, expected = (model.network.backbone(image)["out"] for model in (coarse, fine))
    torch.testing.assert_close(found, expected[..., ::2, ::2], rtol=1e-4, atol=1e-4)
    heads = (model.network.classifier for model in (coarse, fine))
    pyramids = [head.get_submodule(path) for head, path in zip(heads, ("0.0", "0"), strict=True)]
    for rate in range(4):  # the fifth branch is the mean over the image
        found_, expected_ = (
            pyramid.get_submodule(f"convs.{rate}")(features)
            for pyramid, features in zip(pyramids, (found, expected), strict=True)
        )
        torch.testing.assert_close(found_, expected_[..., ::2, ::2], rtol=1e-4, atol=1e-4)
    assert coarse.network.coarse_logits(image).shape == fine.network.coarse_logits(image).shape


def test_cells_between_are_means_of_their_neighbours():
    even = torch.tensor([[[[0.0, 2.0, 6.0]]]]).expand(1, 1, 3, 3)
    assert Between(6)(even)[0, 0, 0].tolist() == [0, 1, 2, 4, 6, 6]
    assert Between(5)(even)[0, 0].shape == (5, 5)
    rows = Between(5)(even.transpose(2, 3))[0, 0]
    assert rows[:, 0].tolist() == [0, 1, 2, 4, 6]


def test_the_original_is_left_alone_and_no_weight_changes(resnet):
    before = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    dilations = [str(module) for module in resnet.network.modules()]
    coarse = at_stride_16(resnet)
    assert [str(module) for module in resnet.network.modules()] == dilations
    weights = zip(before.values(), coarse.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)


@pytest.mark.slow
def test_it_takes_about_a_third_of_the_arithmetic():
    with torch.device("meta"):
        network = build_network("resnet50", classes=1, channels=1).eval()
        fine = Predictor(Preprocess(WINDOW, 256, 1), network).eval()
        counts = []
        for model in (fine, at_stride_16(fine)):
            with FlopCounterMode(display=False) as counter:
                model.network.coarse_logits(torch.empty(1, 3, 256, 256))
            counts.append(counter.get_total_flops())
    assert 0.3 < counts[1] / counts[0] < 0.35


@pytest.mark.parametrize("name", [n for n in get_args(NetworkName) if n not in AT_STRIDE_8])
def test_networks_at_stride_16_are_told_apart(name):
    network = build_network(name, classes=1, channels=1)
    with pytest.raises(WssegError, match=rf"changes nothing: {name} has .* leave the option out"):
        at_stride_16(Predictor(Preprocess(WINDOW, 64, 1), network))


def shallow(*, replace_stride_with_dilation, **_):
    """ResNet-50 with 6 of its 16 blocks: every kind of block is traced once."""
    return ResNet(
        Bottleneck, [1, 1, 2, 2], replace_stride_with_dilation=replace_stride_with_dilation
    )


@pytest.mark.slow
def test_the_engine_agrees_with_the_network_as_exported_and_the_cost_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.models.segmentation.deeplabv3.resnet50", shallow)
    resnet = predictor_of("resnet50", 64)
    run, out = tmp_path / "run", tmp_path / "model"
    run.mkdir()
    save_weights(resnet.network, run / WEIGHTS)
    save_samples(list(raw_slices()), run / SAMPLES)
    keep_record(RECORD, run)
    manifest = export_run(run, out, ExportOptions(precisions=("fp32",), output_stride=16))
    coarse, cost = coarsened(resnet, raw_slices(), manifest)
    assert load_model(out)[0].output_stride == manifest.output_stride == cost
    assert (cost.stride, cost.trained_at, cost.slices) == (16, 8, 4)
    assert 0.3 < cost.mask_iou < 1
    assert 0 < cost.ratio_difference < 0.5
    engine = open_engine(out, manifest, EngineOptions("cpu", "fp32", engine="onnxruntime"))
    pixels = raw_slices()[1][None]
    with torch.inference_mode():
        as_exported, as_trained = (model(torch.from_numpy(pixels)) for model in (coarse, resnet))
    found = engine.with_probability(pixels)[1]
    assert np.abs(found - as_exported.numpy()).max() < 1e-4
    assert np.abs(found - as_trained.numpy()).max() > 1e-3
