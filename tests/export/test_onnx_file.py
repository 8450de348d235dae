import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from wsseg.export.graph import OPSET, save_onnx


@pytest.fixture(scope="module")
def sessions(models):
    return {
        precision: onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        for precision, model in models.items()
    }


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 33, 120), (2, 250, 180), (5, 64, 31)])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-2)])
def test_onnx_runtime_answers_as_pytorch_at_any_size_and_batch(
    sessions, predictor, shape, precision, tolerance
):
    count, rows, columns = shape
    pixels = np.random.default_rng(0).normal(50, 150, (count, 1, rows, columns))
    pixels = pixels.astype(np.float32)
    answers = sessions[precision].run(None, {"pixels": pixels})
    mask, pixel_area, soft_area, probability, area_variance = answers
    with torch.inference_mode():
        expected = predictor(torch.from_numpy(pixels)).numpy()
    assert mask.shape == (count, 2, rows, columns)
    assert np.abs(probability - expected).max() < tolerance
    assert np.array_equal(mask[:, 0], probability[:, 0] >= 0.5)
    assert np.array_equal(pixel_area, mask.sum((2, 3), dtype=np.int64))
    assert np.allclose(soft_area, expected.sum((2, 3)), atol=tolerance * rows * columns)
    variance = (expected * (1 - expected)).sum((2, 3))
    assert np.allclose(area_variance, variance, atol=tolerance * rows * columns)


def test_the_soft_area_of_a_large_slice_keeps_the_accuracy_that_the_graph_states(sessions):
    rows, columns = 1500, 1100
    pixels = np.linspace(-150, 300, rows * columns, dtype=np.float32).reshape(1, 1, rows, columns)
    _, _, soft_area, probability, _ = sessions["fp32"].run(None, {"pixels": pixels})
    exact = probability.sum((2, 3), dtype=np.float64)
    assert (np.abs(soft_area - exact) <= exact * (rows + columns) * 2**-24).all()


def test_a_pixel_that_is_no_number_does_not_spoil_its_slice(sessions):
    pixels = np.full((1, 1, 64, 64), 40, np.float32)
    pixels[..., :5, :5] = np.nan
    _, _, soft_area, probability, _ = sessions["fp32"].run(None, {"pixels": pixels})
    assert np.isfinite(soft_area).all()
    assert np.isfinite(probability).all()


def test_the_file_states_names_types_and_open_sizes(models):
    model = models["fp16"]
    found = {
        value.name: (
            value.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in (*model.graph.input, *model.graph.output)
    }
    sizes = ["height", "width"]
    assert found == {
        "pixels": (onnx.TensorProto.FLOAT, ["batch", 1, *sizes]),
        "mask": (onnx.TensorProto.UINT8, ["batch", 2, *sizes]),
        "pixel_area": (onnx.TensorProto.INT64, ["batch", 2]),
        "soft_area": (onnx.TensorProto.FLOAT, ["batch", 2]),
        "probability": (onnx.TensorProto.FLOAT, ["batch", 2, *sizes]),
        "area_variance": (onnx.TensorProto.FLOAT, ["batch", 2]),
    }
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]


def test_the_file_stands_alone_and_tells_nothing_of_this_machine(models, tmp_path):
    save_onnx(models["fp32"], tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    model = onnx.load(tmp_path / "model.onnx")
    assert [entry.key for entry in model.metadata_props] == ["wsseg"]
    assert not any(onnx.external_data_helper.uses_external_data(t) for t in model.graph.initializer)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")  # any bytes may stand there
    text = model.SerializeToString()
    assert b"site-packages" not in text
    assert not re.search(rb"\.py\b", text)


def test_masks_and_areas_are_the_same_whether_the_probability_is_asked_for_or_not(models):
    pixels = np.random.default_rng(0).normal(50, 150, (2, 1, 96, 70)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        models["fp32"].SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = ["mask", "pixel_area", "soft_area"]
    asked = session.run([*names, "probability"], {"pixels": pixels})
    for found, expected in zip(session.run(names, {"pixels": pixels}), asked, strict=False):
        np.testing.assert_array_equal(found, expected)


def test_half_precision_weights_take_half_the_room(models):
    assert models["fp16"].ByteSize() < 0.55 * models["fp32"].ByteSize()
    operators = {node.op_type for node in models["fp32"].graph.node}
    assert "BatchNormalization" not in operators
