import logging
import sys

import numpy as np
import pytest
import torch

from wsseg.export import engine_tensorrt
from wsseg.export.difference import Standard
from wsseg.export.engine_onnx import planned_engine
from wsseg.export.engine_tensorrt import (
    DEFAULT_PROFILE,
    TensorRTJob,
    check_profile,
    make_tensorrt_engine,
    open_engine,
)
from wsseg.export.onnx_file import save_onnx
from wsseg.export.parity import Candidate, judge, make_standard
from wsseg.export.tensorrt_toolkit import (
    DEFAULT_ARCHITECTURES,
    TensorRTMissingError,
    find_toolkit,
    this_gpu,
)
from wsseg.imaging.definitions import RatioDefinition
from wsseg.imaging.errors import WssegError
from wsseg.serve.manifest import Profile
from wsseg.serve.tensorrt_build import EngineBuildError, build_engine, read_network
from wsseg.serve.tensorrt_log import listener_of


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_is_built_ahead_of_time_without_a_gpu(models, no_gpu, precision):
    toolkit = find_toolkit(("sm_89",))
    model = models[precision].SerializeToString()
    plan = build_engine(toolkit.module, model, "sm_89", DEFAULT_PROFILE)
    assert len(plan) > 0.5 * len(model)
    assert toolkit.runtime == "tensorrt_rtx"
    assert toolkit.builder.startswith("tensorrt_rtx 1.")


def test_an_engine_is_built_from_the_published_file(models, tmp_path, no_gpu, monkeypatch):
    given = []

    def building(module, model, architecture, profile):
        given.append(model)
        return b"plan"

    monkeypatch.setattr(engine_tensorrt, "build_engine", building)
    save_onnx(models["fp16"], tmp_path / "model.fp16.onnx")
    standard = Standard((), np.zeros(2, np.float32), (), ())
    job = TensorRTJob(find_toolkit(("sm_89",)), DEFAULT_PROFILE, standard, tmp_path)
    entry = make_tensorrt_engine(job, "sm_89", planned_engine("fp16"))
    assert (tmp_path / entry.file).read_bytes() == b"plan"
    assert given == [(tmp_path / "model.fp16.onnx").read_bytes()]


def test_an_engine_writes_masks_and_areas_but_no_probability(models):
    trt = find_toolkit(("sm_89",)).module
    builder = trt.Builder(listener_of(trt))
    network, _parser = read_network(trt, builder, models["fp32"].SerializeToString())
    names = [network.get_output(place).name for place in range(network.num_outputs)]
    assert names == ["mask", "pixel_area", "soft_area"]


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_engine_for_this_gpu_agrees_with_pytorch(models, predictor, slices):
    gpu = this_gpu()
    assert gpu is not None
    toolkit = find_toolkit((gpu,))
    model = models["fp32"].SerializeToString()
    engine = open_engine(toolkit, build_engine(toolkit.module, model, gpu, DEFAULT_PROFILE))
    ratios = (RatioDefinition(name="organ", numerator="organ"),)
    standard = make_standard(predictor, slices, (0.5, 0.4), ("organ", "tumour"), ratios)
    parity = judge(Candidate(engine, f"{toolkit.runtime}-cuda", "fp32"), standard)
    assert parity.mask_agreement > 0.9999
