"""Which engine is taken, which are skipped, and what the log says."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serve.conftest import PARITY, make_manifest
from wsseg.imaging import WssegError
from wsseg.serve.engines import select
from wsseg.serve.engines.base import EngineOptions, Prediction, UnusableError
from wsseg.serve.engines.hardware import UNKNOWN
from wsseg.serve.engines.select import ADAPTERS, Adapter, candidates, open_engine
from wsseg.serve.manifest import EngineFile, Manifest

AUTO = EngineOptions()
ON_CPU = EngineOptions(device="cpu")
NAMES = [f"{adapter.engine}/{adapter.device}" for adapter in ADAPTERS]


class Opened:
    """An engine that only says what it is."""

    gives_probability = True

    def __init__(self, adapter: Adapter, entry: EngineFile) -> None:
        self.name = f"{adapter.engine}-{adapter.device}"
        self.precision, self.file = entry.precision, entry.file

    def __call__(self, pixels: Any, /) -> Prediction:
        raise NotImplementedError(self.name)

    def with_probability(self, pixels: Any, /) -> tuple[Prediction, Any]:
        raise NotImplementedError


def entry(runtime: Any, precision: Any, **changes: Any) -> EngineFile:
    fields = {"file": "x", "sha256": "", "parity": PARITY, **changes}
    return EngineFile(runtime=runtime, precision=precision, **fields)


@pytest.fixture
def machine(monkeypatch):
    """Pretend that some adapters can work here, and that some of these fail when opened."""

    def pretend(*able: str, failing: tuple[str, ...] = ()) -> None:
        adapters = tuple(
            replace(
                adapter,
                absent=(lambda: None) if name in able else (lambda: "not here"),
                open=_opener(adapter, fails=name in failing),
            )
            for name, adapter in zip(NAMES, ADAPTERS, strict=True)
        )
        monkeypatch.setattr(select, "ADAPTERS", adapters)

    return pretend


def _opener(adapter: Adapter, *, fails: bool) -> Any:
    def opened(folder: Path, manifest: Manifest, found: EngineFile, threads: int) -> Opened:
        if fails:
            raise UnusableError("it broke")
        return Opened(adapter, found)

    return opened


def taken(options: EngineOptions, *entries: EngineFile) -> str:
    engine = open_engine(Path(), make_manifest(engines=entries), options)
    return f"{engine.name} {engine.precision}"


ON_CUDA = PARITY.model_copy(update={"provider": "onnxruntime-cuda"})
FP32 = entry("onnxruntime", "fp32", relative_time=1.0)
FP16 = entry("onnxruntime", "fp16", relative_time=1.3)
VINO = entry("openvino", "fp32", relative_time=0.9)
VINO_INT8 = entry("openvino", "int8", relative_time=0.2, instructions="avx512_vnni")
CPU_ONLY = ("openvino/cpu", "onnxruntime/cpu")


def test_on_a_cpu_the_fastest_that_the_export_measured_is_taken(machine, monkeypatch):
    machine(*CPU_ONLY)
    monkeypatch.setattr(select, "integer_kind", lambda: "avx_vnni")
    assert taken(AUTO, FP32, FP16, VINO, VINO_INT8) == "openvino-cpu int8"


def test_int8_is_not_taken_by_itself_on_another_kind_of_cpu(machine, monkeypatch):
    machine(*CPU_ONLY)
    monkeypatch.setattr(select, "integer_kind", lambda: None)
    assert taken(AUTO, FP32, VINO, VINO_INT8) == "openvino-cpu fp32"
    wished = EngineOptions(device="cpu", engine="openvino", precision="int8")
    assert taken(wished, FP32, VINO, VINO_INT8) == "openvino-cpu int8"


def test_without_openvino_onnx_runtime_serves(machine):
    machine("onnxruntime/cpu")
    assert taken(AUTO, VINO, FP32) == "onnxruntime-cpu fp32"


def test_a_gpu_comes_first_in_half_precision_if_that_was_checked_on_one(machine):
    machine("onnxruntime/cuda", *CPU_ONLY)
    half = FP16.model_copy(update={"parity": ON_CUDA})
    assert taken(AUTO, FP32, half, VINO) == "onnxruntime-cuda fp16"
    # A CPU computes fp16 in fp32: its figures say nothing of a GPU's.
    for unchecked in (FP16, FP16.model_copy(update={"parity": None})):
        assert taken(AUTO, FP32, unchecked, VINO) == "onnxruntime-cuda fp32"
        assert taken(EngineOptions(precision="fp16"), FP32, unchecked) == "onnxruntime-cuda fp16"


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_tensorrt_is_taken_before_onnx_runtime_only_if_it_was_compared(machine, precision):
    machine("tensorrt/cuda", "onnxruntime/cuda", *CPU_ONLY)
    plan = entry("tensorrt", precision, gpu="sm_90", parity=ON_CUDA)
    assert taken(AUTO, FP32, plan) == f"tensorrt-cuda {precision}"
    unchecked = plan.model_copy(update={"parity": None})
    assert taken(AUTO, FP32, unchecked) == "onnxruntime-cuda fp32"
    asked = EngineOptions(engine="tensorrt", precision=precision)
    assert taken(asked, FP32, unchecked) == f"tensorrt-cuda {precision}"


def test_int8_does_not_run_on_a_gpu(machine):
    machine("onnxruntime/cuda", *CPU_ONLY)
    int8 = entry("onnxruntime", "int8", relative_time=0.2)
    assert taken(EngineOptions(precision="int8"), FP32, int8) == "onnxruntime-cpu int8"
    with pytest.raises(WssegError, match="int8 is made and compared for CPUs"):
        taken(EngineOptions(device="cuda", precision="int8"), FP32, int8)


@pytest.mark.parametrize(
    ("device", "engine", "words"),
    [
        ("cuda", "openvino", "engine openvino computes on cpu, not on cuda"),
        ("cpu", "tensorrt", "engine tensorrt computes on cuda, not on cpu"),
    ],
)
def test_an_engine_on_a_device_that_it_never_has_is_an_error(machine, device, engine, words):
    machine("tensorrt/cuda", *CPU_ONLY)
    plan = entry("tensorrt", "fp16", gpu="sm_90", parity=ON_CUDA)
    with pytest.raises(WssegError, match=words):
        taken(EngineOptions(device=device, engine=engine), FP32, VINO, plan)


def test_masks_by_known_ratios_pass_tensorrt_over(machine):
    machine("tensorrt/cuda", "onnxruntime/cuda", *CPU_ONLY)
    plan = entry("tensorrt", "fp16", gpu="sm_90")
    assert taken(EngineOptions(probability=True), FP32, plan) == "onnxruntime-cuda fp32"


def test_providers_that_stand_in_are_taken_by_name_only(machine):
    machine("onnxruntime-tensorrt/cuda", *CPU_ONLY)
    assert taken(AUTO, FP32) == "onnxruntime-cpu fp32"
    assert taken(EngineOptions(engine="onnxruntime-tensorrt"), FP32) == (
        "onnxruntime-tensorrt-cuda fp32"
    )


def test_an_engine_that_fails_to_open_gives_way_to_the_next(machine, log):
    machine("onnxruntime/cuda", *CPU_ONLY, failing=("onnxruntime/cuda",))
    with log.at_level(logging.INFO):
        assert taken(AUTO, FP32, VINO) == "openvino-cpu fp32"
    events = [getattr(record, "event", "") for record in log.records]
    assert events == ["cuda_not_used", "engine_chosen"]
    assert "it broke" in log.text
    assert "0.90 of the time of fp32" in log.text


def test_cuda_that_was_asked_for_is_never_replaced_by_the_cpu(machine):
    machine("onnxruntime/cuda", *CPU_ONLY, failing=("onnxruntime/cuda",))
    with pytest.raises(WssegError, match=r"--device cuda does not work here: .*it broke"):
        taken(EngineOptions(device="cuda"), FP32, VINO)


def test_an_engine_asked_for_by_name_is_never_replaced(machine):
    machine("onnxruntime/cpu")
    with pytest.raises(WssegError, match="openvino on CPU in fp32: not here"):
        taken(EngineOptions(engine="openvino"), FP32, VINO)
    with pytest.raises(WssegError, match="tensorrt on CUDA in fp16: not here"):
        taken(EngineOptions(engine="tensorrt"), FP32, entry("tensorrt", "fp16"))


def test_a_precision_that_the_model_lacks_is_an_error_that_names_what_there_is(machine):
    machine(*CPU_ONLY)
    with pytest.raises(WssegError, match=r"no engine for int8 \(it has: onnxruntime fp32, openv"):
        taken(EngineOptions(precision="int8"), FP32, VINO)
    with pytest.raises(WssegError, match="no engine for openvino"):
        taken(EngineOptions(engine="openvino"), FP32)


def test_bfloat16_is_not_taken_where_the_cpu_has_none(machine, monkeypatch):
    machine(*CPU_ONLY)
    fast = entry("openvino", "bf16", relative_time=0.1)
    monkeypatch.setattr("wsseg.serve.engines.openvino.instructions", frozenset)
    able, not_able = candidates(make_manifest(engines=(FP32, fast)), ON_CPU, "cpu")
    assert [c.entry for c in able] == [FP32]
    assert [why for _, why in not_able] == ["this CPU computes no bfloat16"]


def test_on_this_machine_a_real_folder_opens(model):
    from wsseg.serve.manifest import load_model

    manifest, folder = load_model(model)
    engine = open_engine(folder, manifest, ON_CPU)
    assert engine(np.full((1, 1, 2, 2), 255, np.float32)).pixel_areas.tolist() == [[4, 4]]


def test_int8_judged_where_nobody_knows_the_cpu_is_not_taken_by_itself(machine, monkeypatch):
    machine(*CPU_ONLY)
    monkeypatch.setattr(select, "integer_kind", lambda: None)
    foreign = VINO_INT8.model_copy(update={"instructions": UNKNOWN})
    assert taken(AUTO, FP32, VINO, foreign) == "openvino-cpu fp32"
