"""Finished runs read back, and what is said of folders that are none."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from wsseg.imaging import RatioDefinition, Window, WssegError
from wsseg.train.networks import build_network
from wsseg.train.run_folder import (
    RunRecord,
    keep_record,
    load_run,
    read_state,
    save_samples,
    save_state,
    save_weights,
)

RECORD = RunRecord(
    classes=("kidney", "tumour"),
    ratios=(RatioDefinition(name="kidney", numerator="kidney"),),
    channels=1,
    window=Window(low=-200, high=300),
    size=32,
    network="mobilenet_v2",
    preset="paper",
    initial_weights="none",
    cases=4,
    cases_sha256="0" * 64,
    epochs=2,
    chosen_epoch=2,
    chosen_by="last",
    seed=0,
    metrics={},
    thresholds=(0.5, 0.42),
    wsseg_version="0.1.0",
)
SAMPLES = [np.full((1, 5, 7), 3, np.float32), np.zeros((1, 8, 4), np.float32)]


@pytest.fixture
def run(tmp_path):
    network = build_network("mobilenet_v2", classes=2, channels=1)
    save_weights(network, tmp_path / "weights.safetensors")
    save_samples(SAMPLES, tmp_path / "samples.npz")
    keep_record(RECORD, tmp_path)
    return tmp_path


def test_a_run_is_read_back_as_it_was_written(run):
    before = torch.random.get_rng_state()
    trained = load_run(run)
    assert trained.record == RECORD
    assert trained.preprocess.window == RECORD.window
    for sample, original in zip(trained.samples, SAMPLES, strict=True):
        assert sample.dtype == np.float32
        assert np.array_equal(sample, original)
    written = load_file(run / "weights.safetensors")
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(tensor, written[name])
    assert not trained.predictor.training
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_folder_that_is_no_finished_run_is_named_with_what_to_do(tmp_path):
    with pytest.raises(WssegError, match="there is no run folder"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(WssegError, match=r"has no run\.json.*--resume"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text('{"classes": []}')
    with pytest.raises(WssegError, match="damaged or of another version"):
        load_run(tmp_path)


def _drop(tensors):
    del tensors["classifier.refine.4.bias"]


def _add(tensors):
    tensors["classifier.9.bias"] = torch.zeros(1)


def _reshape(tensors):
    tensors["classifier.refine.4.bias"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop, r"1 tensors are missing, such as classifier\.refine\.4\.bias"),
        (_add, r"1 tensors are unknown, such as classifier\.9\.bias"),
        (_reshape, r"classifier\.refine\.4\.bias is \(3,\) instead of \(2,\)"),
    ],
)
def test_weights_of_another_network_are_told_by_the_tensor_that_differs(run, change, message):
    tensors = load_file(run / "weights.safetensors")
    change(tensors)
    save_file(tensors, run / "weights.safetensors")
    with pytest.raises(WssegError, match=message):
        load_run(run)


@pytest.mark.parametrize("name", ["weights.safetensors", "samples.npz"])
def test_a_missing_or_damaged_file_is_named(run, name):
    (run / name).write_bytes(b"not what it should be")
    with pytest.raises(WssegError, match=f"{name} cannot be read"):
        load_run(run)
    (run / name).unlink()
    with pytest.raises(WssegError, match=f"{name} cannot be read"):
        load_run(run)


def test_a_damaged_state_is_an_error_and_a_pickled_object_is_not_executed(tmp_path):
    path = tmp_path / "last.pt"
    save_state({"history": [{"epoch": 1}], "weights": torch.ones(2)}, path)
    assert read_state(path)["history"] == [{"epoch": 1}]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WssegError, match="damaged"):
        read_state(path)
    torch.save({"window": Window()}, path)
    with pytest.raises(WssegError, match="damaged"):
        read_state(path)
