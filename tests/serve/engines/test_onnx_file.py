"""An ONNX file reads no other file, and its weights are finite."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from tests.serve.conftest import (
    make_manifest,
    rows,
    run,
    threshold_graph,
    write_model,
    write_pictures,
)
from wsseg.imaging import WssegError
from wsseg.serve.engines.base import EngineOptions
from wsseg.serve.engines.onnx_file import check_onnx
from wsseg.serve.engines.select import open_engine
from wsseg.serve.manifest import UnfitFileError, load_model


def model_with(*tensors: TensorProto, nodes=()) -> bytes:
    """An ONNX file with these initializers."""
    port = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(list(nodes), "g", [port], [port], list(tensors))
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


def as_values(tensor: TensorProto) -> TensorProto:
    """The same tensor with its numbers in a list of floats, as some exporters write them."""
    numbers = numpy_helper.to_array(tensor)
    return helper.make_tensor(tensor.name, tensor.data_type, numbers.shape, numbers.ravel())


def external(name: str = "weights") -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), name)
    external_data_helper.set_external_data(tensor, location="weights.bin")
    tensor.ClearField("raw_data")
    return tensor


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("kind", "form"),
    [
        *((kind, lambda tensor: tensor) for kind in (np.float16, np.float32, np.float64)),
        *((kind, as_values) for kind in (np.float32, np.float64)),
    ],
)
def test_weights_that_are_not_finite_are_refused_by_their_name(bad: float, kind, form):
    largest = np.array([0, 1e-5, -np.finfo(kind).max, np.finfo(kind).max], kind)
    fine = form(numpy_helper.from_array(largest, "fine"))
    check_onnx(model_with(fine), "m")
    bad_one = form(numpy_helper.from_array(np.array([1, bad, 2], kind), "layer.weight"))
    with pytest.raises(UnfitFileError, match=r"NaN or infinite, .* 'layer\.weight'"):
        check_onnx(model_with(fine, bad_one), "m")


def test_bfloat16_weights_that_are_not_finite_are_refused():
    tensor = TensorProto(name="w", data_type=TensorProto.BFLOAT16, dims=[2])
    tensor.raw_data = np.array([0x3F80, 0x7F7F], np.uint16).tobytes()
    check_onnx(model_with(tensor), "m")
    tensor.raw_data = np.array([0x3F80, 0x7F80], np.uint16).tobytes()
    with pytest.raises(UnfitFileError, match="'w'"):
        check_onnx(model_with(tensor), "m")


def test_whole_numbers_are_weights_of_any_value():
    numbers = np.full(4, -1, np.int64)  # whose bits would be those of a NaN
    check_onnx(model_with(numpy_helper.from_array(numbers, "shape")), "m")


def inside(tensor: TensorProto, place: str) -> bytes:
    """A model with a tensor somewhere else than among the weights of its graph."""
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    if place == "constant":
        return model_with(nodes=[constant])
    if place == "subgraph":
        port = helper.make_tensor_value_info("c", TensorProto.FLOAT, [3])
        branch = helper.make_graph([constant], "b", [], [port])
        return model_with(
            nodes=[helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)]
        )
    function = helper.make_function(
        "own", "f", [], ["c"], [constant], [helper.make_opsetid("", 18)]
    )
    model = onnx.load_from_string(model_with())
    model.functions.append(function)
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize("place", ["weights", "constant", "subgraph", "function"])
def test_tensors_in_other_files_are_refused_wherever_they_are(place: str):
    content = model_with(external()) if place == "weights" else inside(external(), place)
    with pytest.raises(UnfitFileError, match="m takes the tensor 'weights' from another file"):
        check_onnx(content, "m")


def test_a_file_beside_the_program_is_not_taken_for_weights(tmp_path: Path, monkeypatch):
    """ONNX Runtime would read it from the folder in which the program was started."""
    model = onnx.load_from_string(threshold_graph())
    (levels,) = (each for each in model.graph.initializer if each.name == "levels")
    (tmp_path / "weights.bin").write_bytes(levels.raw_data)
    external_data_helper.set_external_data(levels, location="weights.bin")
    levels.ClearField("raw_data")
    folder = write_model(tmp_path / "model", model.SerializeToString())
    monkeypatch.chdir(tmp_path)
    manifest, _ = load_model(folder)
    for engine in ("onnxruntime", "openvino"):
        own = manifest.engines[0].model_copy(update={"runtime": engine})
        only = manifest.model_copy(update={"engines": (own,)})
        with pytest.raises(WssegError, match="from another file, which no export of wsseg does"):
            open_engine(folder, only, EngineOptions("cpu", engine=engine))


@given(end=st.integers(0, 600), place=st.integers(0, 600), byte=st.integers(0, 255))
def test_a_damaged_file_is_accepted_or_refused_and_nothing_else(end: int, place: int, byte: int):
    content = bytearray(threshold_graph())
    content[place % len(content)] = byte
    for damaged in (bytes(content), bytes(content[:end])):
        with suppress(UnfitFileError):
            check_onnx(damaged, "m")


def test_a_file_that_is_nested_without_end_is_refused():
    content = b""
    for _ in range(40):
        content = field(6, field(1, field(5, content)))  # a graph, its node, the node's attribute
    with pytest.raises(UnfitFileError, match="nested too deeply"):
        check_onnx(field(7, field(1, field(5, content))), "m")


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message."""
    size, length = len(content), b""
    while size >= 0x80:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def two_files(folder: Path) -> Path:
    """A model whose faster file is an fp16 one, as far as its manifest knows."""
    content = threshold_graph()
    entry = make_manifest(content).engines[0]
    fast = entry.model_copy(update={"file": "fast.onnx", "precision": "int8", "relative_time": 0.5})
    slow = entry.model_copy(update={"relative_time": 1.0})
    write_model(folder, content, engines=(slow, fast))
    (folder / "fast.onnx").write_bytes(content)
    return folder


def test_an_altered_file_is_passed_over_with_one_warning(tmp_path: Path, log):
    model = two_files(tmp_path / "model")
    scans = write_pictures(tmp_path / "scans", 2)
    run(model, tmp_path / "before.csv", scans)
    assert {row["precision"] for row in rows(tmp_path / "before.csv")} == {"int8"}
    content = bytearray((model / "fast.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (model / "fast.onnx").write_bytes(content)
    log.clear()
    assert run(model, tmp_path / "after.csv", scans).exit_code == 0
    assert {row["precision"] for row in rows(tmp_path / "after.csv")} == {"fp32"}
    told = [record for record in log.records if record.levelname == "WARNING"]
    assert [record.event for record in told] == ["engine_unfit"]
    assert "fast.onnx has SHA-256" in told[0].message


def test_an_altered_file_that_is_asked_for_is_an_error(tmp_path: Path):
    model = two_files(tmp_path / "model")
    (model / "fast.onnx").write_bytes(b"altered")
    with pytest.raises(WssegError, match=r"fast\.onnx has SHA-256 .* copy the whole model folder"):
        run(model, tmp_path / "r.csv", write_pictures(tmp_path / "scans", 1), precision="int8")
