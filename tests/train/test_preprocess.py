import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsseg.imaging import Window
from wsseg.train.data.preprocess import IMAGENET_MEAN, IMAGENET_SD, Preprocess

CT = Window(kind="fixed", low=-200.0, high=300.0)
OWN = Window(kind="image")


def test_a_fixed_window_maps_its_ends_to_0_and_1_and_clips_beyond():
    raw = torch.tensor([-1000.0, -200.0, 50.0, 300.0, 3000.0])[:, None, None, None]
    image = Preprocess(CT, 32, 1).prepare(raw.expand(-1, 1, 7, 9))
    torch.testing.assert_close(image[:, 0, 0, 0], torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
    assert image.shape == (5, 1, 32, 32)


@given(gain=st.floats(0.01, 1000), offset=st.floats(-1000, 1000))
def test_an_images_own_window_does_not_see_the_gain_and_offset_of_the_scanner(gain, offset):
    raw = torch.rand(1, 1, 20, 30, generator=torch.Generator().manual_seed(1)) * 100
    preprocess = Preprocess(OWN, 16, 1)
    # Rounding of an offset that is large against the picture's spread is no fault of the window.
    rounding = 1e-6 * (abs(offset) + 100 * gain) / gain
    torch.testing.assert_close(
        preprocess.prepare(raw * gain + offset),
        preprocess.prepare(raw),
        atol=1e-5 + rounding,
        rtol=0,
    )


def test_an_images_own_window_is_three_standard_deviations_wide_on_each_side():
    generator = torch.Generator().manual_seed(0)
    raw = (
        torch.randn(2, 1, 64, 64, generator=generator)
        * torch.tensor([5.0, 50.0])[:, None, None, None]
    )
    image = Preprocess(OWN, 64, 1).prepare(raw)
    torch.testing.assert_close(image.mean((1, 2, 3)), torch.full((2,), 0.5), atol=1e-3, rtol=0)
    torch.testing.assert_close(image.std((1, 2, 3)), torch.full((2,), 1 / 6), atol=2e-3, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, -1024.0, 3e7])
def test_a_constant_image_is_mid_grey_in_its_own_window(value):
    image = Preprocess(OWN, 32, 1).prepare(torch.full((1, 1, 40, 30), value))
    torch.testing.assert_close(image, torch.full_like(image, 0.5))


@pytest.mark.parametrize("window", [CT, OWN])
def test_values_that_are_no_finite_number_do_not_spread(window):
    raw = torch.rand(1, 1, 32, 32)
    raw[0, 0, 5, 5:8] = torch.tensor([float("nan"), float("inf"), float("-inf")])
    repaired = raw.clone()
    repaired[0, 0, 5, 5:8] = window.low if window is CT else 0.0
    preprocess = Preprocess(window, 32, 1)
    assert torch.equal(preprocess.prepare(raw), preprocess.prepare(repaired))


def test_grey_and_equal_rgb_give_the_same_network_input():
    raw = torch.rand(2, 1, 20, 20) * 255
    grey, colour = Preprocess(Window(), 32, 1), Preprocess(Window(), 32, 3)
    torch.testing.assert_close(grey(raw), colour(raw.expand(-1, 3, -1, -1)))


def test_normalise_gives_imagenets_units_and_forward_is_both_steps():
    preprocess = Preprocess(Window(), 8, 3)
    image = torch.rand(1, 3, 8, 8)
    expected = (image - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_SD)[
        :, None, None
    ]
    torch.testing.assert_close(preprocess.normalise(image), expected)
    raw = torch.rand(1, 3, 11, 13) * 255
    assert torch.equal(preprocess(raw), preprocess.normalise(preprocess.prepare(raw)))


def test_the_front_adds_nothing_to_a_checkpoint():
    assert Preprocess(Window(), 32, 1).state_dict() == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("window", [CT, OWN])
def test_onnx_runtime_sees_what_training_saw_for_any_size_and_number_of_images(window, tmp_path):
    import onnxruntime

    preprocess = Preprocess(window, 32, 1).eval()
    file = tmp_path / "preprocess.onnx"
    axes = {0: torch.export.Dim("n"), 2: torch.export.Dim("rows"), 3: torch.export.Dim("columns")}
    torch.onnx.export(
        preprocess,
        (torch.rand(2, 1, 40, 50),),
        file,
        dynamo=True,
        opset_version=18,
        dynamic_shapes=(axes,),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for shape in [(1, 1, 33, 90), (3, 1, 64, 32)]:
        raw = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 400
        raw[0, 0, 0, 0] = float("nan")
        (found,) = session.run(None, {session.get_inputs()[0].name: raw.numpy()})
        np.testing.assert_allclose(found, preprocess(raw).numpy(), atol=2e-5)
