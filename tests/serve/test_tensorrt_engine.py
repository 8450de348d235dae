"""TensorRT engines: what is refused before a GPU is needed, and what the real library says."""

import hashlib

import numpy as np
import pytest
import tensorrt_rtx

from tests.serve.conftest import make_manifest
from wsseg.serve.engines.base import EngineError, UnusableError
from wsseg.serve.engines.tensorrt import TensorRtEngine, no_tensorrt, open_tensorrt
from wsseg.serve.manifest import EngineFile, Profile

CONTENT = b"a plan of another machine"
HERE = f"tensorrt_rtx {tensorrt_rtx.__version__}"
PROFILE = Profile(minimum=(1, 64, 64), optimum=(8, 512, 512), maximum=(32, 1024, 1024))


def entry(builder=HERE):
    return EngineFile(
        file="model.rtx.sm_89.engine",
        runtime="tensorrt_rtx",
        precision="fp16",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        gpu="sm_89",
        builder=builder,
        profile=PROFILE,
    )


def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("wsseg.serve.engines.tensorrt.find_spec", lambda _: None)
    assert no_tensorrt("tensorrt") == "not installed: pip install 'wsseg[trt]'"


def test_an_engine_of_another_version_is_not_loaded(tmp_path):
    (tmp_path / "model.rtx.sm_89.engine").write_bytes(CONTENT)
    with pytest.raises(UnusableError, match=r"built by tensorrt_rtx 1\.0 and this is .*export ag"):
        open_tensorrt(tmp_path, make_manifest(), entry("tensorrt_rtx 1.0"), 0)


@pytest.mark.parametrize(
    "shape", [(1, 1, 32, 64), (33, 1, 64, 64), (1, 1, 64, 1025)], ids=["small", "many", "wide"]
)
def test_slices_outside_the_profile_are_refused_in_plain_words(shape):
    engine = TensorRtEngine(None, None, None, 2, PROFILE, "tensorrt-rtx-cuda", "fp16", "m.engine")
    with pytest.raises(EngineError, match=r"m\.engine takes \(batch, rows, columns\) from \(1, 6"):
        engine(np.zeros(shape, np.float32))


def test_no_probability_is_promised():
    engine = TensorRtEngine(None, None, None, 2, PROFILE, "tensorrt-rtx-cuda", "fp16", "m.engine")
    assert not engine.gives_probability
    with pytest.raises(EngineError, match="gives no probability"):
        engine.with_probability(np.zeros((1, 1, 64, 64), np.float32))
