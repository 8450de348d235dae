import hashlib
import json
import logging
import shutil
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from tests.export.conftest import OPTIONS, content
from wsseg.export import engines as engine_onnx
from wsseg.export import engines as engine_openvino
from wsseg.export.graph import METADATA
from wsseg.export.publish import ExportOptions, export_run
from wsseg.export.tensorrt import TensorRTMissingError
from wsseg.imaging import AllFailedError, RatioDefinition, WssegError
from wsseg.serve.engines.base import EngineOptions
from wsseg.serve.engines.openvino import OpenVinoEngine
from wsseg.serve.engines.select import open_engine
from wsseg.serve.manifest import engine_bytes, load_model
from wsseg.train.run_folder import RECORD, SAMPLES, save_samples


def spoilt(model):
    """The model with its first convolution turned over."""
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    weight = max(wrong.graph.initializer, key=lambda tensor: tensor.ByteSize())
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    return wrong


def test_the_folder_holds_what_its_manifest_says(exported):
    manifest, out, _ = exported
    read, _ = load_model(out)
    assert read == manifest
    names = ["model.onnx", "model.fp16.onnx", "model.onnx", "model.pt2", "model.rtx.sm_89.engine"]
    assert [engine.file for engine in manifest.engines] == names
    assert sorted(content(out)) == sorted({*names, "card.json", "model.json"})
    for engine in manifest.engines:
        assert engine.sha256 == hashlib.sha256(engine_bytes(out, engine)).hexdigest()
    full, half, vino, _, rtx = manifest.engines
    assert full.parity.slices == half.parity.slices == 4
    assert full.parity.probability_difference < half.parity.probability_difference
    assert (vino.runtime, vino.precision) == ("openvino", "fp32")
    assert vino.parity.provider == "openvino-cpu"
    assert (rtx.runtime, rtx.precision, rtx.gpu) == ("tensorrt_rtx", "fp16", "sm_89")
    assert rtx.profile == OPTIONS.profile


def test_engines_that_run_on_this_cpu_have_their_time_beside_fp32_in_onnx_runtime(exported):
    full, half, vino, _, rtx = exported[0].engines
    assert full.relative_time == 1
    assert half.relative_time > 0
    assert vino.relative_time > 0
    assert rtx.relative_time is None


def test_without_openvino_the_other_engines_are_published(run, tmp_path, made, monkeypatch):
    monkeypatch.setattr(engine_openvino, "no_openvino", lambda: "not installed")
    manifest = export_run(run, tmp_path / "model", OPTIONS)
    assert [engine.runtime for engine in manifest.engines] == ["onnxruntime"] * 2


def test_an_openvino_that_disagrees_is_left_out(run, tmp_path, made, monkeypatch, caplog):
    def wrong(engine, pixels):
        prediction, probability = right(engine, pixels)
        return prediction, 1 - probability

    right = OpenVinoEngine.with_probability
    monkeypatch.setattr(OpenVinoEngine, "with_probability", wrong)
    with caplog.at_level(logging.WARNING, "wsseg.export"):
        manifest = export_run(run, tmp_path / "model", OPTIONS)
    assert [engine.runtime for engine in manifest.engines] == ["onnxruntime"] * 2
    assert (
        "model.onnx in OpenVINO in fp32 is not published: fp32 on openvino-cpu disagrees"
        in caplog.text
    )


def test_the_manifest_tells_where_the_network_came_from(exported):
    manifest, *_ = exported
    assert manifest.name == "two organs"
    assert manifest.training.cases_sha256 == "ab" * 32
    assert manifest.training.metrics == {"iou": 0.5}
    assert manifest.thresholds == (0.5, 0.4)
    assert manifest.network_size == 64


def test_the_manifest_names_the_run_that_taught_the_network(run, tmp_path, made):
    taught = tmp_path / "run"
    shutil.copytree(run, taught)
    record = json.loads((taught / RECORD).read_text())
    compared = {"cases": 1, "student": {}, "teacher": {}, "agreement": 0.5, "relative_time": 0.2}
    told = {"run": "large", "network": "resnet50", "weights_sha256": "cd" * 32}
    record["teacher"] = {**told, "comparison": compared}
    (taught / RECORD).write_text(json.dumps(record))
    manifest = export_run(taught, tmp_path / "model", ExportOptions(precisions=("fp32",)))
    assert manifest.training.model_dump()["teacher"] == told
    plain = export_run(run, tmp_path / "plain", ExportOptions(precisions=("fp32",)))
    assert plain.training.teacher is None
    assert plain.output_stride is None


def test_a_network_that_runs_at_stride_16_is_not_changed_and_nothing_is_written(run, tmp_path):
    with pytest.raises(WssegError, match="mobilenet_v2 has an output stride of 16 as it is"):
        export_run(run, tmp_path / "model", ExportOptions(output_stride=16))
    assert list(tmp_path.iterdir()) == []


def test_thresholds_are_the_runs_where_none_are_asked_for(run, tmp_path, made):
    options = ExportOptions(precisions=("fp32",))
    assert export_run(run, tmp_path / "model", options).thresholds == (0.5, 0.4)


def test_the_onnx_file_alone_says_what_it_measures(exported):
    manifest, out, _ = exported
    for name in ("model.onnx", "model.fp16.onnx"):
        (entry,) = onnx.load(out / name).metadata_props
        assert entry.key == METADATA
        described = json.loads(entry.value)
        whole = json.loads(manifest.model_dump_json())
        later = {"engines", "created", "calibration"}
        assert described == {k: whole[k] for k in whole if k not in later}


def test_serving_runs_what_was_published(exported, predictor, slices):
    manifest, out, _ = exported
    engine = open_engine(out, manifest, EngineOptions(device="cpu", precision="fp32"))
    found = engine(slices[1][None])
    with torch.inference_mode():
        expected = predictor(torch.from_numpy(slices[1][None])).numpy()
    limits = np.array([0.5, 0.4], np.float32)[:, None, None]
    assert (found.masks == (expected >= limits)).mean() > 0.9999
    again, probability = engine.with_probability(slices[1][None])
    assert np.array_equal(again.masks, found.masks)
    assert np.abs(probability - expected).max() < 1e-5


def test_a_failed_export_leaves_the_old_folder_as_it_was(
    run, small_models, tmp_path, exported, serve_models
):
    out = tmp_path / "model"
    shutil.copytree(exported[1], out)
    before = content(out)
    serve_models({"fp32": spoilt(small_models["fp32"])})
    with pytest.raises(AllFailedError, match="nothing was exported: fp32 on onnxruntime-cpu"):
        export_run(run, out, OPTIONS.model_copy(update={"overwrite": True}))
    assert content(out) == before
    assert list(tmp_path.iterdir()) == [out]


def test_an_fp16_engine_that_disagrees_is_left_out(
    run, small_models, tmp_path, serve_models, caplog
):
    serve_models({**small_models, "fp16": spoilt(small_models["fp16"])})
    with caplog.at_level(logging.WARNING, "wsseg.export"):
        manifest = export_run(run, tmp_path / "model", OPTIONS)
    assert [engine.precision for engine in manifest.engines] == ["fp32", "fp32"]
    assert sorted(content(tmp_path / "model")) == ["card.json", "model.json", "model.onnx"]
    assert "model.fp16.onnx is not published: fp16 on" in caplog.text


def test_a_network_too_large_for_half_precision_is_published_as_fp32(
    run, tmp_path, made, monkeypatch, caplog
):
    monkeypatch.setattr(engine_onnx, "largest_magnitude", lambda graph, slices: 1e5)
    manifest = export_run(run, tmp_path / "model", OPTIONS)
    assert {engine.file for engine in manifest.engines} == {"model.onnx"}
    assert "no room in half precision" in caplog.text


def test_without_tensorrt_the_onnx_engines_are_published_and_the_error_says_so(
    run, tmp_path, made, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    out = tmp_path / "model"
    with pytest.raises(TensorRTMissingError) as caught:
        export_run(run, out, OPTIONS.model_copy(update={"trt": True}))
    assert caught.value.exit_code == 2
    manifest, _ = load_model(out)
    assert {engine.file for engine in manifest.engines} == {"model.onnx", "model.fp16.onnx"}


def test_an_unknown_architecture_stops_before_anything_is_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = OPTIONS.model_copy(update={"trt": True, "gpu_arch": ("sm_1",)})
    with pytest.raises(WssegError, match="sm_1"):
        export_run(run, tmp_path / "model", options)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_sample_slices_is_refused(run, tmp_path):
    bare = tmp_path / "run"
    shutil.copytree(run, bare)
    save_samples([], bare / SAMPLES)
    with pytest.raises(WssegError, match="no sample slices"):
        export_run(bare, tmp_path / "model", OPTIONS)
    assert list(tmp_path.iterdir()) == [bare]


def test_a_folder_that_is_no_model_is_not_replaced(run, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(WssegError, match="no model folder"):
        export_run(run, tmp_path, OPTIONS)
    with pytest.raises(WssegError, match="is a file"):
        export_run(run, tmp_path / "thesis.txt", OPTIONS)
    assert content(tmp_path) == {"thesis.txt": b"years of work"}


def test_ratios_can_be_defined_anew_but_only_over_known_classes(run, tmp_path, made):
    burden = (RatioDefinition(name="burden", numerator="tumour", denominator="foreground"),)
    options = OPTIONS.model_copy(update={"ratios": burden, "precisions": ("fp32",)})
    assert export_run(run, tmp_path / "model", options).ratios == burden
    unknown = (RatioDefinition(name="burden", numerator="lesion"),)
    with pytest.raises(WssegError, match="burden names a class"):
        export_run(run, tmp_path / "other", OPTIONS.model_copy(update={"ratios": unknown}))
    assert not (tmp_path / "other").exists()


def test_a_model_is_replaced_only_when_told_to(run, exported, tmp_path, made):
    out = tmp_path / "model"
    shutil.copytree(exported[1], out)
    before = content(out)
    with pytest.raises(WssegError, match="holds a model already: give --overwrite"):
        export_run(run, out, OPTIONS)
    assert content(out) == before
    export_run(run, out, OPTIONS.model_copy(update={"overwrite": True, "name": "second"}))
    assert load_model(out)[0].name == "second"


def test_a_network_that_ignores_its_images_is_published_with_a_warning(run, tmp_path, made, caplog):
    blind = tmp_path / "run"
    shutil.copytree(run, blind)
    record = json.loads((blind / RECORD).read_text())
    record["dependence"] = {"cases": 9, "ignored": ["tumour"]}
    (blind / RECORD).write_text(json.dumps(record))
    with caplog.at_level(logging.WARNING, "wsseg.export"):
        export_run(blind, tmp_path / "model", OPTIONS)
    assert "its ratios of tumour mean nothing" in caplog.text
    dependence = load_model(tmp_path / "model")[0].training.dependence
    assert dependence is not None
    assert dependence.ignored == ("tumour",)
