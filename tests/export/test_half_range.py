import copy

import torch
from torch import nn

from wsseg.export.graph import LARGEST_FP16, DeployGraph, largest_magnitude
from wsseg.train.networks import last_layer


def test_an_ordinary_network_fits_into_half_precision(predictor, slices):
    assert 1 < largest_magnitude(DeployGraph(predictor, (0.5, 0.5), "fp32"), slices) < LARGEST_FP16


def test_large_values_between_layers_are_seen_though_the_answer_is_small(predictor, slices):
    stretched = copy.deepcopy(predictor)
    norm = [m for m in stretched.network.classifier.modules() if isinstance(m, nn.BatchNorm2d)][-1]
    with torch.no_grad():
        for weight in norm.parameters():
            weight.mul_(1e5)
        last_layer(stretched.network).weight.div_(1e5)
    graph = DeployGraph(stretched, (0.5, 0.5), "fp32")
    with torch.inference_mode():
        raw = torch.from_numpy(slices[0][None])
        assert torch.allclose(graph(raw)[3], predictor(raw), atol=1e-3)
    assert largest_magnitude(graph, slices) > LARGEST_FP16


def test_looking_leaves_no_hooks_behind(predictor, slices):
    graph = DeployGraph(predictor, (0.5, 0.5), "fp32")
    largest_magnitude(graph, slices)
    assert not any(module._forward_hooks for module in graph.modules())
