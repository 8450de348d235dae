"""The ONNX Runtime engine: right numbers, and an honest answer about where it runs."""

import ctypes
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from tests.serve.conftest import (
    LEVELS,
    SOFTNESS,
    VERSION_ONLY,
    make_manifest,
    threshold_graph,
    write_model,
)
from wsseg.imaging import WssegError
from wsseg.serve.engines.base import Engine, EngineError, EngineOptions
from wsseg.serve.engines.onnxruntime import CPU, OnnxEngine
from wsseg.serve.engines.select import open_engine
from wsseg.serve.manifest import load_model

ON_CPU = EngineOptions(device="cpu")


def opened(folder: Path, options: EngineOptions = ON_CPU) -> Engine:
    manifest, _ = load_model(folder)
    return open_engine(folder, manifest, options)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 1, 20, 33), (2, 1, 64, 64)])
def test_areas_are_what_counting_the_masks_gives(model: Path, shape):
    pixels = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    found = opened(model)(pixels)
    expected = (pixels >= LEVELS.reshape(1, 2, 1, 1)).astype(np.uint8)
    np.testing.assert_array_equal(found.masks, expected)
    np.testing.assert_array_equal(found.pixel_areas, expected.sum((2, 3)))
    assert found.masks.dtype == np.uint8
    assert found.pixel_areas.dtype == np.int64
    assert found.soft_areas.dtype == np.float32
    chance = 1 / (1 + np.exp((LEVELS.reshape(1, 2, 1, 1) - pixels) / SOFTNESS))
    variance = (chance * (1 - chance)).sum((2, 3))
    assert found.area_variances is not None
    np.testing.assert_allclose(found.area_variances, variance, rtol=1e-3, atol=1e-5)


def test_a_file_of_an_early_version_tells_no_variance(tmp_path: Path):
    engine = opened(write_model(tmp_path, threshold_graph(variance=False)))
    assert engine(np.zeros((1, 1, 8, 8), np.float32)).area_variances is None


def test_the_engine_says_what_runs(model: Path):
    engine = opened(model)
    assert (engine.name, engine.precision, engine.file) == ("onnxruntime-cpu", "fp32", "model.onnx")


def test_cuda_without_a_build_for_it_is_an_error_that_says_so(model: Path, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(WssegError, match="built without CUDA") as error:
        opened(model, EngineOptions(device="cuda"))
    assert error.value.exit_code == 2


def test_cuda_without_a_driver_is_an_error_that_says_so(model: Path, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", _no_library)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU]
    )
    with pytest.raises(WssegError, match="no NVIDIA driver"):
        opened(model, EngineOptions(device="cuda"))


def test_cuda_that_the_session_does_not_get_is_an_error(model: Path, monkeypatch):
    """The driver loads, but the session quietly runs on the CPU."""
    monkeypatch.setattr("wsseg.serve.engines.onnxruntime.no_driver", lambda: None)
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: [CPU])
    with pytest.raises(WssegError, match="--device cuda does not work here: "):
        opened(model, EngineOptions(device="cuda"))


def test_auto_runs_on_the_cpu_where_cuda_does_not_and_warns(model: Path, monkeypatch, log):
    monkeypatch.setattr("wsseg.serve.engines.onnxruntime.no_driver", lambda: None)
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: [CPU])
    engine = opened(model, EngineOptions(device="auto"))
    assert engine.name == "onnxruntime-cpu"
    told = [r.levelname for r in log.records if getattr(r, "event", "") == "cuda_not_used"]
    assert told == ["WARNING"]
    assert engine(np.full((1, 1, 2, 2), 255, np.float32)).pixel_areas.tolist() == [[4, 4]]


def test_opening_writes_nothing_to_the_terminal(model: Path, capfd):
    opened(model, EngineOptions(device="auto"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
def test_cuda_gives_what_the_cpu_gives(model: Path):
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 1, 40, 50)).astype(np.float32)
    cuda = opened(model, EngineOptions(device="cuda"))
    assert cuda.name == "onnxruntime-cuda"
    np.testing.assert_array_equal(cuda(pixels).masks, opened(model)(pixels).masks)


def test_a_batch_that_the_runtime_refuses_costs_only_itself(model: Path):
    engine = opened(model)
    with pytest.raises(EngineError):
        engine(np.zeros((1, 2, 8, 8), np.float32))
    assert engine(np.zeros((1, 1, 8, 8), np.float32)).pixel_areas.tolist() == [[0, 0]]


def test_a_failing_gpu_is_an_error_and_no_silent_move_to_the_cpu(model: Path, capfd):
    class LostGpu:
        def __init__(self, session):
            self.session = session

        def __getattr__(self, name):
            return getattr(self.session, name)

        def run(self, *_):
            raise EPFail("the GPU is lost")

    engine = opened(model)
    assert isinstance(engine, OnnxEngine)
    engine.session._sess = LostGpu(engine.session._sess)
    with pytest.raises(EngineError, match="the GPU is lost"):
        engine(np.zeros((1, 1, 8, 8), np.float32))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no network at all", r"model\.onnx is no ONNX file .*: export the model again"),
        (VERSION_ONLY, r"cannot load model\.onnx"),
    ],
)
def test_a_file_that_is_no_network_is_one_clear_error(tmp_path: Path, content: bytes, words: str):
    with pytest.raises(WssegError, match=words):
        opened(write_model(tmp_path, content))


def test_a_network_of_another_program_is_refused(tmp_path: Path):
    foreign = threshold_graph(names=("mask", "area", "soft_area"))
    with pytest.raises(WssegError, match=r"no graph of wsseg.*export the model again"):
        opened(write_model(tmp_path, foreign))


def test_a_network_of_other_channels_than_the_manifest_says_is_refused(tmp_path: Path):
    with pytest.raises(WssegError, match="3 channels"):
        opened(write_model(tmp_path, threshold_graph(1), channels=3))


def test_a_network_of_other_classes_than_the_manifest_says_is_refused(tmp_path: Path):
    changes = {
        "classes": ("bright",),
        "ratios": make_manifest().ratios[:1],
        "thresholds": (0.5,),
    }
    with pytest.raises(WssegError, match="1 classes"):
        opened(write_model(tmp_path, threshold_graph(), **changes))


def _no_library(name, *_, **__):
    raise OSError(f"{name}: cannot open shared object file")
