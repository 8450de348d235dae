"""fp32 on a GPU is fp32 in every runtime: none falls back to TF32's 10 bits by its own default."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from wsseg.serve.engines import onnxruntime as onnx_cuda
from wsseg.serve.engines import torch as torch_engine
from wsseg.serve.engines.base import UnusableError
from wsseg.serve.manifest import load_model


@pytest.fixture
def tf32():
    """Switched on in all of PyTorch, and afterwards as it was."""
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = True
    yield
    for backend, was in zip(backends, before, strict=True):
        backend.allow_tf32 = was


@pytest.mark.parametrize(("device", "kept"), [("cuda", False), ("cpu", True)])
def test_pytorch_on_a_gpu_computes_without_tf32(model, monkeypatch, tf32, device, kept):
    program = SimpleNamespace(module=lambda: SimpleNamespace(to=lambda device: device))
    monkeypatch.setattr(torch.export, "load", lambda _: program)
    monkeypatch.setattr(torch_engine, "check_archive", lambda *_: None)
    manifest, folder = load_model(model)
    torch_engine.open_torch(folder, manifest, manifest.engines[0], 0, device=device)
    assert torch.backends.cudnn.allow_tf32 is kept
    assert torch.backends.cuda.matmul.allow_tf32 is kept


@pytest.mark.parametrize(("wished", "found"), [(None, "0"), ("1", "1")])
def test_tensorrt_in_onnx_runtime_starts_without_tf32_unless_told(
    model, monkeypatch, wished, found
):
    monkeypatch.setenv(onnx_cuda.TF32_VARIABLE, wished or "")
    if wished is None:
        monkeypatch.delenv(onnx_cuda.TF32_VARIABLE)
    seen = []

    def started(*_):
        seen.append(os.environ.get(onnx_cuda.TF32_VARIABLE))
        raise UnusableError("no GPU here")

    monkeypatch.setattr(onnx_cuda, "start_session", started)
    manifest, folder = load_model(model)
    with pytest.raises(UnusableError):
        onnx_cuda.open_onnx_gpu(folder, manifest, manifest.engines[0], provider=onnx_cuda.TENSORRT)
    assert seen == [found]
