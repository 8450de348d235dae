"""Buffers that stay on the device: the same answers, and no more of them than there is room."""

import logging

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail, RuntimeException

from wsseg.serve.engines import onnxruntime as onnx_cuda
from wsseg.serve.engines.base import EngineError, EngineOptions, UnusableError
from wsseg.serve.engines.onnxruntime import CPU, MOST_SHAPES, BoundEngine, OnnxEngine, start_session
from wsseg.serve.engines.select import open_engine
from wsseg.serve.manifest import load_model


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
    np.testing.assert_array_equal(one.area_variances, other.area_variances)


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


def test_a_gpu_without_room_for_buffers_serves_without_them(engine, monkeypatch):
    asked = []

    def no_room(*_):
        asked.append(1)
        raise EPFail("Failed to allocate memory for requested buffer")

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", staticmethod(no_room))
    slices = pixels(2, 1, 4, 4)
    for _ in range(4):
        same(engine(slices), engine.plain(slices))
    assert not engine.keeps(slices.shape)
    assert len(asked) == 1  # a full GPU is not asked again for every batch


def test_graphs_that_find_no_room_are_no_end_of_cuda(model, monkeypatch):
    """The trial answers without buffers, so nothing was captured: the plain session is opened."""

    def no_room(*_):
        raise EPFail("Failed to allocate memory for requested buffer")

    asked = []

    def on_cpu(content, settings, providers):
        asked.append(providers[0][1]["enable_cuda_graph"])
        return start_session(content, settings, [CPU])

    monkeypatch.setattr(onnx_cuda, "start_session", on_cpu)
    monkeypatch.setattr(onnx_cuda, "CUDA", CPU)
    monkeypatch.setitem(onnx_cuda.NAMES, CPU, "onnxruntime-cuda")
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", staticmethod(no_room))
    manifest, folder = load_model(model)
    opened = onnx_cuda.open_onnx_gpu(folder, manifest, manifest.engines[0], provider=CPU)
    assert asked == ["1", "0"]
    assert isinstance(opened, BoundEngine)
    assert not opened.graphs


def test_a_gpu_without_room_for_the_network_gives_way(model, monkeypatch, caplog):
    """ONNX Runtime says so when the session starts; the file is not at fault."""

    def full(*_, **__):
        raise RuntimeException("Failed to allocate memory for requested buffer of size 1048576")

    monkeypatch.setattr(onnxruntime, "InferenceSession", full)
    manifest, folder = load_model(model)
    with (
        caplog.at_level(logging.INFO, "wsseg"),
        pytest.raises(UnusableError, match="does not start there: Failed to allocate memory"),
    ):
        onnx_cuda.open_onnx_gpu(folder, manifest, manifest.engines[0], provider=onnx_cuda.CUDA)
    assert "CUDA graphs are not used" in caplog.text
