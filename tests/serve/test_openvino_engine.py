"""OpenVINO gives what ONNX Runtime gives, for any batch and size, and says what it cannot."""

import hashlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.serve.conftest import LEVELS, VERSION_ONLY, make_manifest, threshold_graph, write_model
from wsseg.imaging import WssegError
from wsseg.serve.engines.base import EngineError
from wsseg.serve.engines.openvino import REPEATS, OpenVinoEngine, no_openvino, open_openvino
from wsseg.serve.manifest import EngineFile, Manifest


def entry(content: bytes) -> EngineFile:
    sha256 = hashlib.sha256(content).hexdigest()
    return EngineFile(file="model.onnx", runtime="openvino", precision="fp32", sha256=sha256)


def opened(folder: Path, content: bytes, threads: int = 0) -> OpenVinoEngine:
    manifest: Manifest = make_manifest(content, engines=(entry(content),))
    write_model(folder, content)
    return open_openvino(folder, manifest, manifest.engines[0], threads)


@pytest.fixture
def engine(tmp_path):
    return opened(tmp_path, threshold_graph(), threads=2)


def pixels(*shape):
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


def test_openvino_is_here():
    assert no_openvino() is None


def test_an_installed_openvino_that_does_not_load_gives_way(tmp_path, monkeypatch):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise ImportError('no libtbb.so.12')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    assert no_openvino() == "it does not load (no libtbb.so.12)"


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 1, 20, 33), (5, 1, 64, 64)])
def test_masks_and_areas_are_what_counting_gives(engine, shape):
    slices = pixels(*shape)
    found, probability = engine.with_probability(slices)
    expected = (slices >= LEVELS.reshape(1, 2, 1, 1)).astype(np.uint8)
    np.testing.assert_array_equal(found.masks, expected)
    np.testing.assert_array_equal(found.pixel_areas, expected.sum((2, 3)))
    assert (found.masks.dtype, found.pixel_areas.dtype) == (np.uint8, np.int64)
    assert found.soft_areas.dtype == probability.dtype == np.float32
    variance = (probability * (1 - probability)).sum((2, 3))
    np.testing.assert_allclose(found.area_variances, variance, rtol=1e-4, atol=1e-5)
    assert engine.gives_probability


def test_a_size_that_repeats_gives_the_same_and_other_sizes_still_work(engine):
    slices = pixels(4, 1, 32, 48)
    first = engine(slices)
    for _ in range(REPEATS + 1):
        again = engine(slices)
        np.testing.assert_array_equal(again.masks, first.masks)
        np.testing.assert_array_equal(again.soft_areas, first.soft_areas)
    assert engine._fixed
    other = pixels(1, 1, 16, 16)
    np.testing.assert_array_equal(engine(other).masks[0, 0], other[0, 0] >= LEVELS[0])
    np.testing.assert_array_equal(engine(slices).masks, first.masks)


def test_an_answer_outlives_the_next_run(engine):
    first = engine(np.full((2, 1, 8, 8), 255, np.float32))
    engine(np.zeros((2, 1, 8, 8), np.float32))
    assert first.pixel_areas.tolist() == [[64, 64], [64, 64]]
    assert first.masks.all()


def test_a_batch_that_the_runtime_refuses_costs_only_itself(engine):
    with pytest.raises(EngineError):
        engine(np.zeros((1, 2, 8, 8), np.float32))
    assert engine(np.zeros((1, 1, 8, 8), np.float32)).pixel_areas.tolist() == [[0, 0]]


def test_a_file_that_is_no_network_is_one_clear_error(tmp_path):
    with pytest.raises(WssegError, match=r"OpenVINO .* cannot load model\.onnx"):
        opened(tmp_path, VERSION_ONLY)


def test_a_network_of_another_program_is_refused(tmp_path):
    with pytest.raises(WssegError, match="no graph of wsseg"):
        opened(tmp_path, threshold_graph(names=("mask", "area", "soft_area")))


class Request:
    """A request that refuses to start while it is at work, as OpenVINO's do."""

    def __init__(self, fault: str = "") -> None:
        self.fault, self.at_work = fault, False

    def start_async(self, inputs, *, share_inputs):
        if self.at_work:
            raise RuntimeError("Infer Request is busy")
        if self.fault == "start":
            raise RuntimeError("no start")
        self.at_work = True

    def wait(self):
        self.at_work = False
        if self.fault:
            raise RuntimeError(f"no {self.fault}")


class FakeCore:
    """Compiles to fakes; `compiled` is told how many streams each time and with how many threads.

    faults: what goes wrong in each request, in their order.
    """

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        self.compiled: list[tuple[int, int]] = []
        self.requests: list[Request] = []

    def compile_model(self, model, device, hints):
        self.compiled.append((hints["NUM_STREAMS"], hints["INFERENCE_NUM_THREADS"]))
        self.requests = [Request(fault) for fault in self.faults] or [
            Request() for _ in range(hints["NUM_STREAMS"])
        ]
        return SimpleNamespace(create_infer_request=iter(self.requests).__next__)


@pytest.mark.parametrize("faults", [("", "wait", "", "end"), ("", "", "start", "")])
def test_after_an_error_no_request_is_left_at_work(faults):
    core = FakeCore(*faults)
    engine = OpenVinoEngine(core, SimpleNamespace(outputs=()), 4, "fp32", "model.onnx")
    for _ in range(2):
        with pytest.raises(EngineError, match=r"no wait|no start"):
            engine(pixels(4, 1, 8, 8))
        assert not any(request.at_work for request in core.requests)


def streams_asked_for(cores: int, *batches: int) -> list[tuple[int, int]]:
    """What was compiled for batches of so many slices, all of different sizes."""
    core = FakeCore()
    engine = OpenVinoEngine(core, SimpleNamespace(outputs=()), cores, "fp32", "model.onnx")
    for at, count in enumerate(batches):
        with pytest.raises(EngineError):  # a fake request has no answer
            engine(pixels(count, 1, 8 + at, 8))
    return core.compiled


def test_a_batch_smaller_than_the_cores_leaves_none_idle():
    assert streams_asked_for(16, 2) == [(2, 16)]
    assert streams_asked_for(4, 9) == [(4, 4)]


def test_more_streams_are_compiled_only_for_larger_batches_that_repeat():
    once = [2] + [8] * (REPEATS - 1)
    assert streams_asked_for(16, *once) == [(2, 16)]
    assert streams_asked_for(16, *once, 2, 8, 8, 2) == [(2, 16), (8, 16)]


def test_batches_that_grow_and_shrink_have_the_same_answers(engine):
    slices = pixels(5, 1, 24, 24)
    first = engine(slices)
    for count in (1, 5, 2, 5, 5, 3, 1):
        found = engine(slices[:count])
        np.testing.assert_array_equal(found.masks, first.masks[:count])
        np.testing.assert_array_equal(found.soft_areas, first.soft_areas[:count])


@pytest.mark.slow
def test_a_signal_after_the_engines_are_gone_reaches_its_handler(tmp_path):
    code = (
        "import gc, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.serve.conftest import threshold_graph\n"
        "from tests.serve.test_openvino_engine import opened, pixels\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        "engines = [opened(Path(sys.argv[1]), threshold_graph()) for _ in range(2)]\n"
        "for engine in engines:\n"
        "    engine(pixels(2, 1, 24, 24))\n"
        "del engine\n"
        "while engines:\n"
        "    del engines[0]\n"
        "    gc.collect()\n"
        "signal.raise_signal(signal.SIGTERM)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=root, check=False)
    assert done.returncode == 3
