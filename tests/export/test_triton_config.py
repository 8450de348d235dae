"""config.pbtxt, read back by Triton's own protobuf."""

import json
import re

import pytest
from google.protobuf import text_format as protobuf
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from wsseg.export.triton import Served, config_text, interface_text, text_format
from wsseg.serve.manifest import Profile

OUTPUTS = ("mask", "pixel_area", "soft_area", "probability", "area_variance")
PROFILE = Profile(minimum=(1, 64, 64), optimum=(8, 512, 384), maximum=(16, 1024, 1024))


@pytest.fixture
def served(exported):
    manifest, *_ = exported
    return Served(
        name="two-organs",
        version=3,
        manifest=manifest,
        entry=manifest.engines[0],
        outputs=OUTPUTS,
        device="auto",
        max_batch=32,
    )


@pytest.fixture
def plan(served):
    """The same model as an engine of TensorRT for one GPU."""
    update = {"runtime": "tensorrt", "gpu": "sm_89", "profile": PROFILE, "file": "m.engine"}
    entry = served.entry.model_copy(update=update)
    return Served(
        served.name, served.version, served.manifest, entry, OUTPUTS[:3], "gpu", max_batch=16
    )


def parsed(served):
    return protobuf.Parse(config_text(served), model_config_pb2.ModelConfig())


def kinds(tensors):
    name = model_config_pb2.DataType.Name
    return {tensor.name: (name(tensor.data_type), list(tensor.dims)) for tensor in tensors}


def test_triton_reads_the_tensors_that_the_graph_has(served):
    config = parsed(served)
    assert config.name == "two-organs"
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 32
    assert kinds(config.input) == {"pixels": ("TYPE_FP32", [1, -1, -1])}
    assert kinds(config.output) == {
        "mask": ("TYPE_UINT8", [2, -1, -1]),
        "pixel_area": ("TYPE_INT64", [2]),
        "soft_area": ("TYPE_FP32", [2]),
        "probability": ("TYPE_FP32", [2, -1, -1]),
        "area_variance": ("TYPE_FP32", [2]),
    }


def test_the_newest_version_is_served_in_batches_of_one_size(served):
    config = parsed(served)
    assert config.version_policy.latest.num_versions == 1
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    assert list(config.dynamic_batching.preferred_batch_size) == []
    assert not config.input[0].allow_ragged_batch


@pytest.mark.parametrize(
    ("device", "kind"), [("auto", "KIND_AUTO"), ("cpu", "KIND_CPU"), ("gpu", "KIND_GPU")]
)
def test_one_instance_runs_on_the_device_that_was_asked_for(served, device, kind):
    (group,) = parsed(Served(**{**vars(served), "device": device})).instance_group
    assert model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) == kind
    assert group.count == 1


def test_onnx_runtime_is_told_to_compute_fp32_as_it_was_checked(served, plan):
    (cuda,) = parsed(served).optimization.execution_accelerators.gpu_execution_accelerator
    assert cuda.name == "cuda"
    assert dict(cuda.parameters) == {"use_tf32": "0"}
    assert not parsed(plan).HasField("optimization")


def test_a_tensorrt_engine_is_batched_and_warmed_up_as_it_was_built(plan):
    config = parsed(plan)
    assert config.backend == "tensorrt"
    assert [output.name for output in config.output] == ["mask", "pixel_area", "soft_area"]
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    (warmup,) = config.model_warmup
    assert warmup.batch_size == 8
    assert list(warmup.inputs["pixels"].dims) == [1, 512, 384]
    assert config.parameters["wsseg_gpu"].string_value == "sm_89"


def test_a_version_is_warmed_up_with_one_slice_of_a_stated_size(served):
    (warmup,) = parsed(served).model_warmup
    assert (warmup.name, warmup.batch_size) == ("1 x 512 x 512", 1)
    pixels = warmup.inputs["pixels"]
    assert list(pixels.dims) == [1, 512, 512]
    assert pixels.data_type == model_config_pb2.TYPE_FP32
    assert pixels.zero_data


def test_the_parameters_say_what_the_model_is(served):
    found = {key: value.string_value for key, value in parsed(served).parameters.items()}
    described = json.loads(found.pop("wsseg"))
    whole = json.loads(served.manifest.model_dump_json())
    later = {"engines", "created", "calibration"}
    assert described == {key: whole[key] for key in whole if key not in later}
    assert found == {
        "wsseg_model_version": "3",
        "wsseg_classes": "organ, tumour",
        "wsseg_ratios": "organ = organ / image, tumour in organ = tumour / organ",
        "wsseg_thresholds": "0.5, 0.4",
        "wsseg_precision": "fp32",
        "wsseg_sha256": served.entry.sha256,
        "wsseg_builder": served.entry.builder,
        "wsseg_gpu": "any",
    }


def test_every_version_of_a_model_has_the_same_interface(served):
    other = Served(**{**vars(served), "version": 9, "device": "cpu", "max_batch": 4})
    assert config_text(other) != config_text(served)
    assert interface_text(other) == interface_text(served)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_read_back_as_it_was(text):
    config = protobuf.Parse(text_format((("name", text),)), model_config_pb2.ModelConfig())
    assert config.name == text


def test_the_text_is_plain_ascii(served):
    manifest = served.manifest.model_copy(update={"classes": ("Mündung", "tumour")})
    text = config_text(Served(**{**vars(served), "manifest": manifest}))
    assert re.fullmatch(r"[\x20-\x7e\n]+", text)
    config = protobuf.Parse(text, model_config_pb2.ModelConfig())
    assert config.parameters["wsseg_classes"].string_value == "Mündung, tumour"
