"""Buffers that stay on the device: the same answers, and no more of them than there is room."""

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from wsseg.serve.choose import open_engine
from wsseg.serve.engine import EngineError
from wsseg.serve.engine_options import EngineOptions
from wsseg.serve.model_folder import load_model
from wsseg.serve.onnx_bound import MOST_SHAPES, BoundEngine
from wsseg.serve.onnx_engine import OnnxEngine


@pytest.fixture
def engine(model):
    manifest, folder = load_model(model)
    plain = open_engine(folder, manifest, EngineOptions(device="cpu"))
    assert isinstance(plain, OnnxEngine)
    return BoundEngine(plain, classes=2, device="cpu")


def pixels(*shape):
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


def same(one, other):
    np.testing.assert_array_equal(one.masks, other.masks)
    np.testing.assert_array_equal(one.pixel_areas, other.pixel_areas)
    np.testing.assert_array_equal(one.soft_areas, other.soft_areas)


def test_bound_runs_answer_as_plain_ones(engine):
    slices = pixels(3, 1, 20, 30)
    for round_ in range(3):
        same(engine(slices + round_), engine.plain(slices + round_))
    assert list(engine._kept) == [(3, 1, 20, 30)]
    assert (engine.name, engine.precision) == ("onnxruntime-cpu", "fp32")
    assert engine.gives_probability


def test_a_shape_that_comes_once_gets_no_buffers(engine):
    for side in range(4, 10):
        engine(pixels(1, 1, side, side))
    assert not engine._kept


def test_no_more_shapes_are_kept_than_there_is_room_for(engine):
    for _ in range(2):
        for side in range(4, 4 + MOST_SHAPES + 2):
            slices = pixels(1, 1, side, side)
            same(engine(slices), engine.plain(slices))
    assert len(engine._kept) == MOST_SHAPES


def test_an_answer_outlives_the_next_run(engine):
    white = np.full((1, 1, 4, 4), 255, np.float32)
    engine(white)
    first = engine(white)
    engine(white * 0)
    assert first.masks.all()


def test_what_the_runtime_raises_is_an_engine_error(engine, monkeypatch):
    slices = pixels(1, 1, 4, 4)
    engine(slices)
    engine(slices)

    def lost(*_):
        raise EPFail("the GPU is lost")

    monkeypatch.setattr(engine.plain.session, "run_with_iobinding", lost)
    with pytest.raises(EngineError, match="the GPU is lost"):
        engine(slices)
