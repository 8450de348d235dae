import pytest
import torch
from torch import nn

from wsseg.imaging import Window
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.networks import Predictor, build_network, last_layer


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    network = build_network("mobilenet_v2", classes=2, channels=1).eval()
    nn.init.normal_(last_layer(network).weight, std=3.0)
    return Predictor(Preprocess(Window(), 64, 1), network).eval()


@torch.no_grad()
@pytest.mark.parametrize("shape", [(2, 1, 100, 37), (1, 1, 64, 64), (1, 1, 20, 300)])
def test_probabilities_lie_on_the_raw_grid_whatever_its_size(predictor, shape):
    probabilities = predictor(torch.rand(shape) * 255)
    assert probabilities.shape == (shape[0], 2, *shape[2:])
    assert probabilities.dtype == torch.float32
    assert 0 <= probabilities.min() < probabilities.max() <= 1


@torch.no_grad()
def test_at_the_networks_own_size_it_predicts_what_training_sees(predictor):
    raw = torch.rand(2, 1, 64, 64) * 255
    trained = predictor.network(predictor.front(raw)).logits
    torch.testing.assert_close(predictor.logits(raw), trained)
    torch.testing.assert_close(predictor(raw), trained.sigmoid())


@torch.no_grad()
def test_an_image_is_predicted_alike_alone_and_in_a_batch(predictor):
    raw = torch.rand(3, 1, 50, 60) * 255
    together = predictor(raw)
    alone = torch.cat([predictor(image[None]) for image in raw])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)
