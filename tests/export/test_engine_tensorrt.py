import logging
import sys

import numpy as np
import pytest

from tests.export.conftest import CLASSES, RATIOS
from wsseg.export import tensorrt as engine_tensorrt
from wsseg.export.engines import Job, planned_engine
from wsseg.export.graph import save_onnx
from wsseg.export.parity import Reference, ReferenceOutputs, reference_outputs
from wsseg.export.tensorrt import (
    DEFAULT_ARCHITECTURES,
    DEFAULT_PROFILE,
    TensorRTMissingError,
    check_profile,
    find_toolkit,
    make_tensorrt_engine,
)
from wsseg.imaging import WssegError
from wsseg.serve.engines.hardware import this_architecture
from wsseg.serve.engines.tensorrt import EngineBuildError, build_engine, listener_of, read_network
from wsseg.serve.manifest import Profile


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(engine_tensorrt, "this_architecture", lambda: None)


def made_for(gpu, precision, job):
    """The entry of the engine that is built for a GPU from a file of the job's folder."""
    return make_tensorrt_engine(
        job,
        planned_engine(precision),
        toolkit=find_toolkit((gpu,)),
        profile=DEFAULT_PROFILE,
        architecture=gpu,
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_is_built_ahead_of_time_without_a_gpu(models, no_gpu, precision):
    toolkit = find_toolkit(("sm_89",))
    model = models[precision].SerializeToString()
    plan = build_engine(toolkit.module, model, "sm_89", DEFAULT_PROFILE)
    assert len(plan) > 0.5 * len(model)
    assert toolkit.runtime == "tensorrt_rtx"
    assert toolkit.builder.startswith("tensorrt_rtx 1.")


def test_an_engine_is_built_from_the_published_file(
    models, predictor, tmp_path, no_gpu, monkeypatch, exported
):
    given = []

    def building(module, model, architecture, profile):
        given.append(model)
        return b"plan"

    monkeypatch.setattr(engine_tensorrt, "build_engine", building)
    save_onnx(models["fp16"], tmp_path / "model.fp16.onnx")
    standard = ReferenceOutputs((), np.zeros(2, np.float32), (), ())
    entry = made_for("sm_89", "fp16", Job(exported[0], predictor, standard, tmp_path))
    assert (tmp_path / entry.file).read_bytes() == b"plan"
    assert given == [(tmp_path / "model.fp16.onnx").read_bytes()]


def test_an_engine_writes_masks_and_areas_but_no_probability(models):
    trt = find_toolkit(("sm_89",)).module
    builder = trt.Builder(listener_of(trt))
    network, _parser = read_network(trt, builder, models["fp32"].SerializeToString())
    names = [network.get_output(place).name for place in range(network.num_outputs)]
    assert names == ["mask", "pixel_area", "soft_area", "area_variance"]


def test_engines_of_two_architectures_differ(models, no_gpu):
    toolkit = find_toolkit(("sm_86", "sm_120"))
    model = models["fp16"].SerializeToString()
    plans = {
        a: build_engine(toolkit.module, model, a, DEFAULT_PROFILE) for a in toolkit.architectures
    }
    assert plans["sm_86"] != plans["sm_120"]


def test_the_usual_architectures_are_built_for_where_none_is_named(no_gpu):
    assert find_toolkit().architectures == DEFAULT_ARCHITECTURES


def test_an_unknown_architecture_is_refused_with_the_known_ones(no_gpu):
    with pytest.raises(WssegError, match=r"'sm_90': choose from .*sm_86, sm_89, sm_120"):
        find_toolkit(("sm_89", "sm_90"))


def test_a_missing_tensorrt_names_the_command_that_brings_it(monkeypatch, no_gpu):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(TensorRTMissingError, match=r"pip install 'wsseg\[trt-rtx\]'") as caught:
        find_toolkit()
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_model_that_tensorrt_does_not_take_is_an_error_with_its_words(no_gpu, caplog):
    with caplog.at_level(logging.CRITICAL), pytest.raises(EngineBuildError, match=r"ONNX file: \w"):
        build_engine(find_toolkit().module, b"no model", "sm_89", DEFAULT_PROFILE)


def test_shapes_that_do_not_ascend_are_refused():
    check_profile(DEFAULT_PROFILE)
    for wrong in (
        Profile(minimum=(1, 64, 64), optimum=(8, 32, 512), maximum=(8, 512, 512)),
        Profile(minimum=(0, 64, 64), optimum=(1, 64, 64), maximum=(8, 512, 512)),
    ):
        with pytest.raises(WssegError, match="ascending"):
            check_profile(wrong)


def test_an_engine_for_this_gpu_that_cannot_be_judged_is_not_left_behind(
    models, predictor, tmp_path, no_gpu, monkeypatch, exported
):
    monkeypatch.setattr(engine_tensorrt, "build_engine", lambda *_: b"plan")
    monkeypatch.setattr(engine_tensorrt, "this_architecture", lambda: "sm_89")
    save_onnx(models["fp16"], tmp_path / "model.fp16.onnx")
    reference = Reference(
        0, np.zeros((1, 1, 64, 64), np.float32), np.zeros((1, 2, 64, 64), np.float32)
    )
    standard = ReferenceOutputs(
        (reference,), np.full((1, 2, 1, 1), 0.5, np.float32), CLASSES, RATIOS
    )
    job = Job(exported[0], predictor, standard, tmp_path)
    # The plan is none, so serving's own adapter, which the gate judges through, cannot load it.
    with pytest.raises(EngineBuildError, match="does not load on this GPU"):
        made_for("sm_89", "fp16", job)
    assert [path.name for path in tmp_path.iterdir()] == ["model.fp16.onnx"]


@pytest.mark.gpu
@pytest.mark.skipif(this_architecture() is None, reason="no CUDA device")
def test_an_engine_for_this_gpu_agrees_with_pytorch(models, predictor, slices, tmp_path, exported):
    gpu = this_architecture() or ""
    save_onnx(models["fp32"], tmp_path / "model.onnx")
    standard = reference_outputs(predictor, slices, (0.5, 0.4), CLASSES, RATIOS)
    parity = made_for(gpu, "fp32", Job(exported[0], predictor, standard, tmp_path)).parity
    assert parity is not None
    assert parity.mask_agreement > 0.9999
