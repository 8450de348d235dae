"""Opening a model folder: what is wrong with it is said, and nothing altered runs."""

import json
import os
from pathlib import Path

import pytest

from tests.serve.conftest import make_manifest, write_model
from wsseg.imaging import WssegError
from wsseg.serve.manifest import FILE_NAME, SCHEMA_VERSION, engine_bytes, load_model


def test_a_written_manifest_reads_back_equal(tmp_path: Path):
    folder = write_model(tmp_path / "model", b"content")
    manifest, found = load_model(folder)
    assert found == folder
    assert manifest == make_manifest(b"content")


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(WssegError, match=r"nowhere does not exist.*wsseg-export"):
        load_model(tmp_path / "nowhere")


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    with pytest.raises(WssegError, match="is a file: give the folder"):
        load_model(file)


def test_a_folder_without_manifest_is_told(tmp_path: Path):
    with pytest.raises(WssegError, match=f"holds no {FILE_NAME}"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[1, 2", b'"text"', b"{}", b"null"])
def test_a_manifest_that_is_none_is_one_clear_error(tmp_path: Path, content: bytes):
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(WssegError, match=rf"{FILE_NAME}.*export the model again"):
        load_model(tmp_path)


def test_a_manifest_of_a_newer_version_asks_for_a_newer_wsseg(tmp_path: Path):
    folder = write_model(tmp_path, b"content")
    content = json.loads((folder / FILE_NAME).read_text())
    content["schema_version"] = SCHEMA_VERSION + 1
    content["a key of the future"] = 1
    (folder / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(WssegError, match="install a newer wsseg"):
        load_model(folder)


def test_a_manifest_with_a_wrong_field_names_it(tmp_path: Path):
    folder = write_model(tmp_path, b"content")
    content = json.loads((folder / FILE_NAME).read_text())
    content["network_size"] = "large"
    (folder / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(WssegError, match="network_size"):
        load_model(folder)


def test_a_ratio_of_an_unknown_class_is_told(tmp_path: Path):
    folder = write_model(tmp_path, b"content")
    content = json.loads((folder / FILE_NAME).read_text())
    content["ratios"][0]["numerator"] = "liver"
    (folder / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(WssegError, match=r"as a whole: ratio \w+ names a class that is not in"):
        load_model(folder)


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b"X" + b[1:], lambda b: b + b"X"])
def test_an_engine_file_with_one_other_byte_is_refused(tmp_path: Path, change):
    folder = write_model(tmp_path, b"content of the engine")
    manifest, _ = load_model(folder)
    assert engine_bytes(folder, manifest.engines[0]) == b"content of the engine"
    (folder / "model.onnx").write_bytes(change(b"content of the engine"))
    with pytest.raises(WssegError, match="altered or cut"):
        engine_bytes(folder, manifest.engines[0])


def test_a_missing_engine_file_is_told(tmp_path: Path):
    folder = write_model(tmp_path, b"content")
    (folder / "model.onnx").unlink()
    with pytest.raises(WssegError, match=r"model\.onnx cannot be read"):
        engine_bytes(folder, load_model(folder)[0].engines[0])


@pytest.mark.parametrize("place", ["../model.onnx", "other/model.onnx", "absolute"])
def test_an_engine_file_outside_the_folder_is_refused(tmp_path: Path, place: str):
    folder = tmp_path / "model"
    (folder / "other").mkdir(parents=True)
    file = str(tmp_path / "model.onnx") if place == "absolute" else place
    (folder / file).write_bytes(b"content")
    entry = make_manifest(b"content").engines[0].model_copy(update={"file": file})
    with pytest.raises(WssegError, match="must lie in the model folder itself"):
        engine_bytes(folder, entry)


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path):
    folder = write_model(tmp_path / "model")
    manifest, _ = load_model(folder)
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")
    with pytest.raises(WssegError, match="it is no regular file"):
        engine_bytes(folder, manifest.engines[0])
    (folder / FILE_NAME).unlink()
    os.mkfifo(folder / FILE_NAME)
    with pytest.raises(WssegError, match="it is no regular file"):
        load_model(folder)


def test_a_model_that_lies_behind_links_is_read(tmp_path):
    folder = write_model(tmp_path / "stored")
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    manifest, found = load_model(linked)
    assert engine_bytes(found, manifest.engines[0])


def test_files_larger_than_any_model_are_not_read(tmp_path, monkeypatch):
    folder = write_model(tmp_path / "model")
    manifest, _ = load_model(folder)
    monkeypatch.setattr("wsseg.serve.manifest.ENGINE_BYTES", 10)
    with pytest.raises(WssegError, match="and at most 10 can be"):
        engine_bytes(folder, manifest.engines[0])


def test_a_manifest_that_is_nested_without_end_is_one_line(tmp_path):
    (tmp_path / FILE_NAME).write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(WssegError, match="nested too deeply"):
        load_model(tmp_path)


def test_a_file_name_that_no_system_knows_is_one_line(tmp_path):
    folder = write_model(tmp_path / "model")
    manifest, _ = load_model(folder)
    entry = manifest.engines[0].model_copy(update={"file": "model\0.onnx"})
    with pytest.raises(WssegError, match="must lie in the model folder itself"):
        engine_bytes(folder, entry)
