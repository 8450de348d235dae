"""Engines that are built again: by the real library, kept under all that they depend on."""

import hashlib
import sys
from types import SimpleNamespace

import onnx
import pytest
import tensorrt_rtx

from tests.serve.conftest import PARITY, make_manifest
from wsseg.imaging import WssegError
from wsseg.serve.engines import select
from wsseg.serve.engines import tensorrt as tensorrt_engine
from wsseg.serve.engines.base import EngineOptions, UnusableError
from wsseg.serve.engines.select import ADAPTERS, open_engine
from wsseg.serve.engines.tensorrt import EngineBuildError, cached_engine, engine_cache
from wsseg.serve.manifest import EngineFile, Profile

PROFILE = Profile(minimum=(1, 8, 8), optimum=(1, 16, 16), maximum=(2, 32, 32))
OTHER = Profile(minimum=(1, 8, 8), optimum=(1, 16, 16), maximum=(4, 32, 32))


def small_model(factor=2.0):
    """Pixels times a number, as one of the outputs that serving knows, and as one it does not."""
    kind = onnx.TensorProto.FLOAT
    shape: list[str | int | None] = ["n", 1, "h", "w"]
    nodes = [
        onnx.helper.make_node("Mul", ["pixels", "factor"], ["soft_area"]),
        onnx.helper.make_node("Identity", ["soft_area"], ["probability"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "small",
        [onnx.helper.make_tensor_value_info("pixels", kind, shape)],
        [onnx.helper.make_tensor_value_info(n, kind, shape) for n in ("soft_area", "probability")],
        [onnx.helper.make_tensor("factor", kind, [], [factor])],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def test_an_engine_is_built_once_for_a_model_an_architecture_and_a_profile(tmp_path):
    plan, built = cached_engine(tensorrt_rtx, small_model(), "sm_89", PROFILE, tmp_path)
    assert built
    assert cached_engine(tensorrt_rtx, small_model(), "sm_89", PROFILE, tmp_path) == (plan, False)
    others = [
        cached_engine(tensorrt_rtx, small_model(3.0), "sm_89", PROFILE, tmp_path)[1],
        cached_engine(tensorrt_rtx, small_model(), "sm_86", PROFILE, tmp_path)[1],
        cached_engine(tensorrt_rtx, small_model(), "sm_89", OTHER, tmp_path)[1],
    ]
    assert others == [True, True, True]
    assert len(list(tmp_path.iterdir())) == 4


def test_another_version_of_the_library_does_not_take_the_engine_of_the_first(
    tmp_path, monkeypatch
):
    cached_engine(tensorrt_rtx, small_model(), "sm_89", PROFILE, tmp_path)
    monkeypatch.setattr(tensorrt_rtx, "__version__", "99.0")
    assert cached_engine(tensorrt_rtx, small_model(), "sm_89", PROFILE, tmp_path)[1]


def test_engines_are_kept_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WSSEG_CACHE", raising=False)
    assert engine_cache() == tmp_path / "home" / "wsseg" / "engines"
    monkeypatch.setenv("WSSEG_CACHE", str(tmp_path / "own"))
    assert engine_cache() == tmp_path / "own" / "engines"


@pytest.fixture
def stale(tmp_path, monkeypatch):
    """A model folder on a machine with a GPU, whose engine another version built."""
    model = small_model()
    (tmp_path / "model.fp16.onnx").write_bytes(model)
    (tmp_path / "model.rtx.sm_86.engine").write_bytes(b"old")
    rtx = next(a for a in ADAPTERS if a.runtime == "tensorrt_rtx")
    able = tuple(
        a if a is not rtx else type(a)(**{**vars(a), "absent": lambda: None}) for a in ADAPTERS
    )
    monkeypatch.setattr(select, "ADAPTERS", able)
    monkeypatch.setattr(tensorrt_engine, "this_architecture", lambda: "sm_89")
    monkeypatch.setenv("WSSEG_CACHE", str(tmp_path / "cache"))
    return make_manifest(
        engines=(
            EngineFile(
                file="model.fp16.onnx",
                runtime="onnxruntime",
                sha256=hashlib.sha256(model).hexdigest(),
                precision="fp16",
                parity=PARITY,
            ),
            EngineFile(
                file="model.rtx.sm_86.engine",
                runtime="tensorrt_rtx",
                sha256=hashlib.sha256(b"old").hexdigest(),
                gpu="sm_86",
                builder="tensorrt_rtx 1.0",
                profile=PROFILE,
                precision="fp16",
                parity=PARITY,
            ),
        )
    )


def test_an_engine_asked_for_by_name_that_does_not_fit_is_built_again_with_one_message(
    stale, tmp_path, monkeypatch, caplog
):
    loaded = []

    def load(module, plan, manifest, entry):
        loaded.append(plan)
        return tensorrt_engine.TensorRtEngine(
            None, None, None, 1, PROFILE, "tensorrt-rtx-cuda", entry.precision, entry.file
        )

    # Loading needs a GPU; the build is the real one.
    monkeypatch.setattr(tensorrt_engine, "_loaded", load)
    asked = EngineOptions(engine="tensorrt-rtx", rebuild=True)
    for _ in range(2):
        engine = open_engine(tmp_path, stale, asked)
        # Rows name another engine than the one that was compared, and the file it came of.
        assert (engine.name, engine.file) == ("tensorrt-rtx-cuda-rebuilt", "model.fp16.onnx")
    assert loaded[0] == loaded[1]
    assert [file.read_bytes() for file in (tmp_path / "cache/engines").iterdir()] == loaded[:1]
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 2
    assert "model.rtx.sm_86.engine (tensorrt_rtx 1.0, sm_86) does not fit here" in said[0]
    assert "for sm_89 was built from model.fp16.onnx" in said[0]
    assert "was taken from the cache" in said[1]


def test_an_engine_that_fits_is_taken_before_another_is_built(stale, tmp_path, monkeypatch):
    here = f"tensorrt_rtx {tensorrt_rtx.__version__}"
    (tmp_path / "model.rtx.sm_89.engine").write_bytes(b"old")
    fitting = stale.engines[1].model_copy(
        update={"file": "model.rtx.sm_89.engine", "gpu": "sm_89", "builder": here}
    )
    both = stale.model_copy(update={"engines": (*stale.engines, fitting)})
    loaded = []

    def load(module, plan, manifest, entry):
        loaded.append(entry.file)
        return SimpleNamespace(name="tensorrt-rtx-cuda", precision=entry.precision)

    monkeypatch.setattr(tensorrt_engine, "_loaded", load)
    open_engine(tmp_path, both, EngineOptions(engine="tensorrt-rtx", rebuild=True))
    assert loaded == ["model.rtx.sm_89.engine"]


def test_what_only_compares_engines_builds_none(stale, tmp_path):
    with pytest.raises(WssegError, match="export again here"):
        open_engine(tmp_path, stale, EngineOptions(engine="tensorrt-rtx"))


def test_a_cached_engine_that_was_altered_is_built_again(tmp_path):
    plan, _ = cached_engine(tensorrt_rtx, small_model(), "sm_89", PROFILE, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(plan[:-1])
    assert cached_engine(tensorrt_rtx, small_model(), "sm_89", PROFILE, tmp_path) == (plan, True)


@pytest.mark.skipif(sys.platform == "win32", reason="folders there are closed to other users")
@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_cached_engine_that_others_can_have_written_is_built_again(tmp_path, place):
    cache = tmp_path / "engines"
    plan, _ = cached_engine(tensorrt_rtx, small_model(), "sm_89", PROFILE, cache)
    (file,) = cache.iterdir()
    assert (file.stat().st_mode & 0o777, cache.stat().st_mode & 0o777) == (0o600, 0o700)
    (file if place == "file" else cache).chmod(0o770)
    assert cached_engine(tensorrt_rtx, small_model(), "sm_89", PROFILE, cache) == (plan, True)


def test_an_architecture_that_the_library_does_not_know_is_said(tmp_path):
    with pytest.raises(EngineBuildError, match="does not build for sm_90"):
        cached_engine(tensorrt_rtx, small_model(), "sm_90", PROFILE, tmp_path)


def test_an_engine_that_cannot_be_kept_is_used_all_the_same(tmp_path, caplog):
    (tmp_path / "file").touch()
    plan, built = cached_engine(tensorrt_rtx, small_model(), "sm_89", PROFILE, tmp_path / "file")
    assert built
    assert len(plan) > 100
    assert "set WSSEG_CACHE" in caplog.text


def test_auto_takes_no_engine_that_nothing_has_compared(stale, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("auto builds nothing")

    monkeypatch.setattr(tensorrt_engine, "cached_engine", never)
    with pytest.raises(Exception, match=r"model\.fp16\.onnx"):
        # The small model is none of wsseg's: what matters is that it is what was opened.
        open_engine(tmp_path, stale, EngineOptions())


def test_without_the_onnx_file_of_its_precision_nothing_can_be_built(stale, tmp_path):
    alone = stale.model_copy(update={"engines": stale.engines[1:]})
    with pytest.raises(UnusableError, match="cannot be built again"):
        tensorrt_engine.rebuild_tensorrt(tmp_path, alone, alone.engines[0], 0)
