import math
from typing import get_args

import pytest
import torch

from wsseg.train.config import NetworkName
from wsseg.train.distributed import SeededDropout
from wsseg.train.networks import PRIOR_LOW, build_network, last_layer, set_prior

NAMES = get_args(NetworkName)


@pytest.fixture(params=[name for name in NAMES if name != "resnet101"], scope="module")
def network(request):
    torch.manual_seed(0)
    return build_network(request.param, classes=2, channels=3, dropout=0.25).eval()


@torch.no_grad()
def test_both_outputs_have_the_inputs_size_and_the_reconstruction_its_range(network):
    outputs = network(torch.randn(2, 3, 64, 48))
    assert outputs.logits.shape == (2, 2, 64, 48)
    assert outputs.reconstruction.shape == (2, 3, 64, 48)
    assert 0 <= outputs.reconstruction.min() < outputs.reconstruction.max() <= 1


@torch.no_grad()
def test_coarse_logits_are_the_logits_before_enlarging_and_need_no_reconstruction_head(network):
    image = torch.randn(1, 3, 64, 64)
    logits = network(image).logits
    head, network.reconstruction = network.reconstruction, None
    coarse = network.coarse_logits(image)
    network.reconstruction = head
    enlarged = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear")
    torch.testing.assert_close(enlarged, logits)


@torch.no_grad()
def test_outputs_are_float32_under_autocast(network):
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(torch.randn(1, 3, 64, 64))
        coarse = network.coarse_logits(torch.randn(1, 3, 64, 64))
    assert {outputs.logits.dtype, outputs.reconstruction.dtype, coarse.dtype} == {torch.float32}


def test_the_only_dropout_is_ours_with_the_probability_asked_for(network):
    assert not [module for module in network.modules() if isinstance(module, torch.nn.Dropout)]
    ours = [module for module in network.modules() if isinstance(module, SeededDropout)]
    # After the pyramid, and before the last layer of a decoder.
    wanted = 2 if network.name == "mobilenet_v2" else 1
    assert [module.probability for module in ours] == [0.25] * wanted


def test_both_heads_reach_the_backbone(network):
    first = next(network.backbone.parameters())
    for output in ("logits", "reconstruction"):
        outputs = network(torch.randn(1, 3, 64, 64))
        network.zero_grad()
        getattr(outputs, output).std().backward()
        assert first.grad is not None
        assert first.grad.abs().sum() > 0


@torch.no_grad()
def test_the_prior_makes_a_fresh_network_predict_about_the_mean_ratio(network):
    torch.nn.init.zeros_(last_layer(network).weight)
    before = last_layer(network).state_dict()["bias"][1].clone()
    set_prior(network, [0.1, math.nan])
    probabilities = network(torch.randn(1, 3, 64, 64)).logits.sigmoid()
    torch.testing.assert_close(probabilities[0, 0], torch.full((64, 64), 0.1))
    assert last_layer(network).state_dict()["bias"][1] == before


@torch.no_grad()
def test_a_prior_of_nothing_keeps_a_gradient():
    network = build_network("mobilenet_v2", classes=1, channels=1)
    set_prior(network, [0.0])
    bias = last_layer(network).state_dict()["bias"]
    torch.testing.assert_close(bias.sigmoid(), torch.tensor([PRIOR_LOW]))


@torch.no_grad()
def test_mobilenet_v2_decodes_output_stride_16_to_logits_at_a_quarter_of_the_input():
    network = build_network("mobilenet_v2", classes=2, channels=1).eval()
    image = torch.randn(1, 3, 96, 64)
    features = network.backbone(image)
    assert {name: tuple(map_.shape) for name, map_ in features.items()} == {
        "fine": (1, 24, 24, 16),
        "middle": (1, 32, 12, 8),
        "aux": (1, 96, 6, 4),
        "out": (1, 320, 6, 4),
    }
    assert network.coarse_logits(image).shape == (1, 2, 24, 16)


@torch.no_grad()
@pytest.mark.parametrize("size", [(33, 50), (65, 47)])
def test_sizes_that_no_stride_divides_are_answered_at_their_own_size(size):
    network = build_network("mobilenet_v2", classes=1, channels=1).eval()
    outputs = network(torch.randn(1, 3, *size))
    assert outputs.logits.shape == outputs.reconstruction.shape == (1, 1, *size)


@torch.no_grad()
@pytest.mark.parametrize("level", ["fine", "middle", "out"])
def test_every_level_of_the_decoder_reaches_the_logits(level):
    network = build_network("mobilenet_v2", classes=1, channels=1).eval()
    features = network.backbone(torch.randn(1, 3, 64, 64))
    before = network.classifier(features)
    changed = {**features, level: features[level] + torch.randn_like(features[level])}
    assert not torch.allclose(network.classifier(changed), before)


@torch.no_grad()
def test_the_same_seed_gives_the_same_network():
    torch.manual_seed(3)
    first = build_network("mobilenet_v2", classes=1, channels=1).state_dict()
    torch.manual_seed(3)
    second = build_network("mobilenet_v2", classes=1, channels=1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
