"""The model repository that Triton polls."""

import errno
import shutil
from pathlib import Path

import pytest
from google.protobuf import text_format as protobuf
from tritonclient.grpc import model_config_pb2

from wsseg.export import triton
from wsseg.export.triton import TritonOptions, add_version, check_request, config_text
from wsseg.imaging import WssegError
from wsseg.serve.engines.base import EngineOptions
from wsseg.serve.engines.select import open_engine
from wsseg.serve.manifest import FILE_NAME, Profile, load_model

PLAIN = TritonOptions()


def edited(folder, **fields):
    """Change the manifest of a model folder."""
    manifest, _ = load_model(folder)
    (folder / FILE_NAME).write_text(manifest.model_copy(update=fields).model_dump_json())
    return folder


@pytest.fixture
def model(exported, tmp_path):
    """A model folder with a name that Triton can serve."""
    folder = tmp_path / "model"
    shutil.copytree(exported[1], folder)
    return edited(folder, name="organs")


@pytest.fixture
def plan(model):
    """The model folder with a TensorRT engine for sm_89 whose largest batch is 16."""
    manifest, _ = load_model(model)
    profile = Profile(minimum=(1, 64, 64), optimum=(8, 512, 512), maximum=(16, 1024, 1024))
    entry = manifest.engines[-1].model_copy(update={"runtime": "tensorrt", "profile": profile})
    return edited(model, engines=(*manifest.engines[:-1], entry))


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "models"


def content(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def config(repository, name="organs"):
    text = (repository / name / "config.pbtxt").read_text()
    return protobuf.Parse(text, model_config_pb2.ModelConfig())


def test_a_model_is_laid_out_as_triton_looks_for_it(model, repository):
    assert add_version(model, repository, PLAIN) == repository / "organs" / "1"
    names = ["organs/1/model.json", "organs/1/model.onnx", "organs/config.pbtxt"]
    assert sorted(content(repository)) == names
    served = (repository / "organs/1/model.onnx").read_bytes()
    assert served == (model / "model.onnx").read_bytes()
    assert config(repository).name == "organs"


def test_a_version_is_a_model_folder_that_wsseg_opens(model, repository, slices):
    manifest, folder = load_model(add_version(model, repository, PLAIN))
    (entry,) = manifest.engines
    assert (entry.file, entry.precision) == ("model.onnx", "fp32")
    found = open_engine(folder, manifest, EngineOptions("cpu"))(slices[0][None])
    assert found.masks.shape == (1, 2, 64, 64)


def test_an_export_adds_the_next_version_and_changes_no_other(model, repository):
    add_version(model, repository, PLAIN)
    before = content(repository / "organs" / "1")
    options = TritonOptions(engine="model.fp16.onnx", device="cpu", max_batch=4)
    assert add_version(model, repository, options).name == "2"
    assert content(repository / "organs" / "1") == before
    (entry,) = load_model(repository / "organs" / "2")[0].engines
    assert (entry.file, entry.precision) == ("model.onnx", "fp16")
    assert config(repository).parameters["wsseg_model_version"].string_value == "2"
    assert config(repository).max_batch_size == 4


def test_versions_are_compared_as_numbers(model, repository):
    add_version(model, repository, TritonOptions(version=9))
    assert add_version(model, repository, PLAIN).name == "10"
    assert add_version(model, repository, PLAIN).name == "11"


@pytest.mark.parametrize("version", [1, 3, 4])
def test_a_version_that_triton_would_not_take_for_the_newest_is_refused(model, repository, version):
    add_version(model, repository, TritonOptions(version=4))
    before = content(repository)
    with pytest.raises(WssegError, match="--triton-version 5 or above"):
        add_version(model, repository, TritonOptions(version=version))
    assert content(repository) == before


def test_nothing_but_whole_models_and_versions_ever_lies_in_the_repository(
    model, repository, monkeypatch
):
    seen = []
    repository.mkdir()

    def watching(wrapped):
        def watched(*arguments):
            seen.append(sorted(content(repository)))
            assert {p.name for p in repository.iterdir()} <= {"organs"}
            result = wrapped(*arguments)
            seen.append(sorted(content(repository)))
            return result

        return watched

    for name in ("engine_bytes", "config_text", "_move"):
        monkeypatch.setattr(triton, name, watching(getattr(triton, name)))
    add_version(model, repository, PLAIN)
    add_version(model, repository, PLAIN)
    one = ["organs/1/model.json", "organs/1/model.onnx", "organs/config.pbtxt"]
    two = [*one[:2], "organs/2/model.json", "organs/2/model.onnx", one[2]]
    steps = [step for step, after in zip(seen, [*seen[1:], None], strict=True) if step != after]
    assert steps == [[], one, two]
    assert sorted(p.name for p in repository.parent.iterdir()) == ["model", "models"]


def test_a_failure_halfway_leaves_the_repository_as_it_was(model, repository, monkeypatch):
    add_version(model, repository, PLAIN)
    before = content(repository)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(triton, "config_text", full)
    with pytest.raises(OSError, match="no space left"):
        add_version(model, repository, PLAIN)
    assert content(repository) == before
    assert sorted(p.name for p in repository.parent.iterdir()) == ["model", "models"]


def test_a_repository_that_may_not_be_written_is_refused_before_the_export(repository, monkeypatch):
    (repository / "organs").mkdir(parents=True)
    (repository / "organs" / "config.pbtxt").touch()
    monkeypatch.setattr("os.access", lambda place, mode: place.name != "organs")
    check_request(repository, "livers", PLAIN)
    with pytest.raises(WssegError, match="organs cannot be written to"):
        check_request(repository, "organs", PLAIN)
    assert sorted(p.name for p in repository.parent.iterdir()) == ["models"]


def test_of_two_exports_at_once_the_later_is_refused(model, repository, monkeypatch):
    add_version(model, repository, PLAIN)

    def overtaken(served):
        monkeypatch.setattr(triton, "config_text", config_text)
        add_version(model, repository, PLAIN)
        return config_text(served)

    monkeypatch.setattr(triton, "config_text", overtaken)
    with pytest.raises(WssegError, match="by someone else meanwhile"):
        add_version(model, repository, PLAIN)
    assert config(repository).parameters["wsseg_model_version"].string_value == "2"


def test_a_repository_that_is_a_mounted_disk_is_refused(model, repository, monkeypatch):
    def other_disk(source, target):
        raise OSError(errno.EXDEV, "cross-device link")

    monkeypatch.setattr(Path, "rename", other_disk)
    with pytest.raises(WssegError, match="a folder on that disk"):
        add_version(model, repository, PLAIN)
    assert content(repository) == {}


@pytest.mark.parametrize("name", ["two organs", "a/b", "..", ".hidden", "", "Mündung", "x\n"])
def test_a_name_that_is_no_folder_and_url_is_refused(repository, name):
    with pytest.raises(WssegError, match="give --name"):
        check_request(repository, name, PLAIN)


def test_a_model_with_other_tensors_needs_another_name(model, repository):
    add_version(model, repository, PLAIN)
    before = content(repository)
    manifest, _ = load_model(model)
    edited(model, classes=("organ", "tumour", "vessel"), thresholds=(*manifest.thresholds, 0.5))
    with pytest.raises(WssegError, match="other tensors"):
        add_version(model, repository, PLAIN)
    assert content(repository) == before


def test_a_model_of_someone_else_is_not_replaced(model, repository):
    (repository / "organs" / "1").mkdir(parents=True)
    with pytest.raises(WssegError, match=r"no config\.pbtxt"):
        add_version(model, repository, PLAIN)
    (repository / "organs" / "config.pbtxt").write_text('backend: "python"\n')
    with pytest.raises(WssegError, match="not written by wsseg-export"):
        add_version(model, repository, PLAIN)
    (repository / "file").touch()
    with pytest.raises(WssegError, match="is a file"):
        add_version(model, repository / "file", PLAIN)


def test_an_engine_that_triton_does_not_load_is_refused(model, repository):
    with pytest.raises(WssegError, match="tensorrt_rtx, which Triton does not load"):
        add_version(model, repository, TritonOptions(engine="model.rtx.sm_89.engine"))
    with pytest.raises(WssegError, match=r"it has model\.onnx, model\.fp16\.onnx"):
        add_version(model, repository, TritonOptions(engine="model.trt"))
    assert not repository.exists()


def test_a_tensorrt_engine_is_a_plan_for_its_gpu_and_profile(plan, repository):
    options = TritonOptions(engine="model.rtx.sm_89.engine")
    version = add_version(plan, repository, options)
    assert sorted(content(version)) == ["model.json", "model.plan"]
    found = config(repository)
    assert (found.backend, found.max_batch_size) == ("tensorrt", 16)
    assert found.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    with pytest.raises(WssegError, match="runs on a GPU only"):
        add_version(plan, repository, options.model_copy(update={"device": "cpu"}))


def test_an_altered_engine_is_not_served(model, repository):
    with (model / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(WssegError, match="altered"):
        add_version(model, repository, PLAIN)
    assert not repository.exists()
