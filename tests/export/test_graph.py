import copy

import numpy as np
import pytest
import torch
from torch import nn

from wsseg.export.graph import DeployGraph
from wsseg.train.networks import last_layer

THRESHOLDS = (0.5, 0.4)


@pytest.fixture(scope="module")
def graph(predictor):
    return DeployGraph(predictor, THRESHOLDS, "fp32")


def answers(module, pixels):
    with torch.inference_mode():
        return [answer.numpy() for answer in module(torch.from_numpy(pixels))]


def test_the_deployed_graph_answers_what_the_training_predictor_answers(graph, predictor, slices):
    for raw in slices:
        mask, pixel_area, soft_area, probability, _ = answers(graph, raw[None])
        with torch.inference_mode():
            expected = predictor(torch.from_numpy(raw[None])).numpy()
        assert np.abs(probability - expected).max() < 1e-5
        assert 0.02 < mask.mean() < 0.98
        limits = np.array(THRESHOLDS, np.float32)[:, None, None]
        assert np.array_equal(mask, probability >= limits)
        assert np.array_equal(pixel_area, mask.sum((2, 3), dtype=np.int64))
        assert mask.dtype == np.uint8
        assert pixel_area.dtype == np.int64
        assert soft_area.dtype == np.float32


def test_a_probability_equal_to_the_threshold_belongs_to_the_class(predictor, slices):
    certain = copy.deepcopy(predictor)
    for weight in last_layer(certain.network).parameters():
        nn.init.zeros_(weight)
    mask, *_ = answers(DeployGraph(certain, (0.5, 0.51), "fp32"), slices[0][None])
    assert mask[:, 0].all()
    assert not mask[:, 1].any()


def test_half_precision_is_inside_the_network_only(predictor, slices):
    before = copy.deepcopy(predictor.state_dict())
    half = DeployGraph(predictor, THRESHOLDS, "fp16")
    assert {weight.dtype for weight in half.parameters()} == {torch.float16}
    _, _, soft_area, probability, _ = answers(half, slices[0][None])
    assert probability.dtype == soft_area.dtype == np.float32
    with torch.inference_mode():
        exact = predictor(torch.from_numpy(slices[0][None])).numpy()
    assert 0 < np.abs(probability - exact).max() < 0.02
    after = predictor.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_no_batch_norm_is_left_to_the_exporter(graph):
    assert not any(isinstance(module, nn.BatchNorm2d) for module in graph.modules())
