"""Exports that ask for int8: refused, published, or left out with the layers that hurt."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.export.conftest import OPTIONS, content
from wsseg.export import engines as engine_int8
from wsseg.export import quantise as search
from wsseg.export.graph import METADATA
from wsseg.export.parity import TOLERANCES, EngineRejectedError
from wsseg.export.publish import export_run
from wsseg.imaging import WssegError
from wsseg.serve.engines.base import EngineOptions
from wsseg.serve.engines.select import open_engine
from wsseg.serve.manifest import load_model


def int8_options(tmp_path, **changes):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (70, 64), np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    fields = {"precisions": ("fp32", "int8"), "calibration": images}
    return OPTIONS.model_copy(update=fields | changes)


def test_int8_without_calibration_images_is_refused_before_anything_is_written(run, tmp_path):
    options = OPTIONS.model_copy(update={"precisions": ("fp32", "int8")})
    with pytest.raises(WssegError, match="give --calibration"):
        export_run(run, tmp_path / "model", options)
    assert list(tmp_path.iterdir()) == []


def test_an_int8_engine_is_published_beside_fp32_and_opens_where_it_is_asked_for(
    run, tmp_path, made, monkeypatch
):
    # The session's network has random weights: how well 8 bits suit it is not the point here.
    monkeypatch.setitem(TOLERANCES, "int8", replace(TOLERANCES["int8"], ratio_mean=1, mask_iou=0))
    manifest = export_run(run, tmp_path / "model", int8_options(tmp_path))
    assert [(e.runtime, e.precision) for e in manifest.engines] == [
        *(("onnxruntime", "fp32"), ("onnxruntime", "int8")),
        *(("openvino", "fp32"), ("openvino", "int8")),
    ]
    assert (tmp_path / "model/model.int8.onnx").stat().st_size < 0.5 * (
        tmp_path / "model/model.onnx"
    ).stat().st_size
    read, folder = load_model(tmp_path / "model")
    for runtime in ("onnxruntime", "openvino"):
        asked = EngineOptions(device="cpu", precision="int8", engine=runtime)
        engine = open_engine(folder, read, asked)
        assert (engine.name, engine.precision) == (f"{runtime}-cpu", "int8")
    (entry,) = onnx.load(folder / "model.int8.onnx").metadata_props
    assert entry.key == METADATA


def test_an_int8_engine_that_disagrees_is_left_out_and_the_error_names_its_layers(
    run, tmp_path, made, monkeypatch
):
    strict = replace(TOLERANCES["int8"], mask_iou=1.1)
    monkeypatch.setitem(TOLERANCES, "int8", strict)
    monkeypatch.setattr(engine_int8, "most_sensitive_first", lambda part, *_: list(part.layers))
    monkeypatch.setattr(search, "FLOAT_AT_MOST", 0.02)
    with pytest.raises(EngineRejectedError, match=r"suffer most from 8 bits: backbone\.fine\.0, "):
        export_run(run, tmp_path / "model", int8_options(tmp_path))
    manifest, _ = load_model(tmp_path / "model")
    assert {engine.file for engine in manifest.engines} == {"model.onnx"}
    assert sorted(content(tmp_path / "model")) == ["card.json", "model.json", "model.onnx"]
