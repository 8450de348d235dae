"""The PyTorch program of a model folder: the same answers, and only where it is asked for."""

import hashlib
import io
import json
import pickle
import re
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from wsseg.imaging import WssegError
from wsseg.serve.engines.base import EngineOptions
from wsseg.serve.engines.select import open_engine

TORCH = EngineOptions(device="cpu", engine="torch")


def torch_entry(manifest):
    return next(entry for entry in manifest.engines if entry.runtime == "torch")


def test_it_is_judged_and_served_by_name_alone(exported):
    manifest, folder, _ = exported
    entry = torch_entry(manifest)
    assert (entry.precision, entry.file) == ("fp32", "model.pt2")
    assert entry.parity.mask_agreement == 1
    assert open_engine(folder, manifest, EngineOptions(device="cpu")).name != "torch-cpu"
    assert open_engine(folder, manifest, TORCH).name == "torch-cpu"


@pytest.mark.parametrize("shape", [(1, 1, 90, 120), (3, 1, 64, 64)])
def test_it_answers_like_the_onnx_file_for_any_batch_and_size(exported, shape):
    manifest, folder, _ = exported
    pixels = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    # Without the precision it would be the one that the export found fastest.
    options = EngineOptions(device="cpu", engine="onnxruntime", precision="fp32")
    onnx = open_engine(folder, manifest, options)
    wanted, probability = onnx.with_probability(pixels)
    found, same = open_engine(folder, manifest, TORCH).with_probability(pixels)
    np.testing.assert_allclose(same, probability, atol=1e-4)
    np.testing.assert_allclose(found.soft_areas, wanted.soft_areas, rtol=1e-4)
    assert found.area_variances is not None
    assert wanted.area_variances is not None
    np.testing.assert_allclose(found.area_variances, wanted.area_variances, rtol=1e-3)
    np.testing.assert_array_equal(found.pixel_areas, found.masks.sum((2, 3), dtype=np.int64))


def test_it_holds_no_folder_and_no_source_line_of_the_machine_that_made_it(exported):
    _, folder, _ = exported
    with ZipFile(folder / "model.pt2") as archive:
        program = archive.read("model/models/model.json")
    assert b"aten" in program
    assert b"stack_trace" not in program
    assert not re.search(rb"\.py\b", program)


def test_a_file_that_is_no_program_is_refused_with_what_to_do(exported, tmp_path):
    manifest, *_ = exported
    (tmp_path / "model.pt2").write_bytes(b"no program")
    altered = torch_entry(manifest).model_copy(
        update={"sha256": hashlib.sha256(b"no program").hexdigest()}
    )
    with pytest.raises(WssegError, match=r"cannot load model\.pt2 .*; export it again"):
        open_engine(tmp_path, manifest.model_copy(update={"engines": (altered,)}), TORCH)


class Harm:
    """Makes a file, in the current folder, where it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


def saved(thing):
    held = io.BytesIO()
    torch.save(thing, held)
    return held.getvalue()


def flagged(config):
    """A payload config whose payloads are said to be pickled."""
    told = json.loads(config)
    assert told["config"]
    for payload in told["config"].values():
        payload["use_pickle"] = True
    return json.dumps(told).encode()


WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
PICKLED = {
    "a weight": {WEIGHTS: flagged, "data/weights/weight_0": lambda _: saved(Harm())},
    "a constant": {CONSTANTS: flagged, "data/constants/tensor_0": lambda _: saved(Harm())},
    "an object": {"data/constants/opaque_obj_0": lambda _: pickle.dumps(Harm())},
    "all weights, as in earlier versions": {"data/weights/model.pt": lambda _: saved(Harm())},
    "sample inputs": {"data/sample_inputs/model.pt": lambda _: saved(Harm())},
    "compiled code": {"data/aotinductor/model/model.so": lambda _: b"code"},
}


@pytest.mark.parametrize("holds", PICKLED)
def test_a_program_that_could_run_anything_is_refused_before_it_is_loaded(
    exported, tmp_path, monkeypatch, holds
):
    manifest, folder, _ = exported
    monkeypatch.chdir(tmp_path)
    changes = dict(PICKLED[holds])
    with ZipFile(folder / "model.pt2") as whole, ZipFile("model.pt2", "w") as altered:
        root = whole.namelist()[0].partition("/")[0]
        for name in whole.namelist():
            change = changes.pop(name.partition("/")[2], lambda content: content)
            altered.writestr(name, change(whole.read(name)))
        for name, change in changes.items():
            altered.writestr(f"{root}/{name}", change(b""))
    content = (tmp_path / "model.pt2").read_bytes()
    entry = torch_entry(manifest).model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    with pytest.raises(WssegError, match=r"model\.pt2 holds pickled objects"):
        open_engine(tmp_path, manifest.model_copy(update={"engines": (entry,)}), TORCH)
    assert not Path("unpickled").exists()
