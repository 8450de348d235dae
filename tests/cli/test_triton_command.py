"""`wsseg export --triton`: a run to a model repository."""

from pathlib import Path

import pytest

from tests.cli.conftest import call
from wsseg.serve.manifest import load_model


@pytest.mark.slow
def test_an_export_adds_a_version_to_the_repository_and_says_so(job: Path, tmp_path: Path):
    repository = tmp_path / "models"
    printed = call(
        "export", job / "run", "--out", tmp_path / "organs", "--precision", "fp32",
        "--batch", "1,2,4", "--triton", repository, "--triton-device", "cpu",
    )  # fmt: skip
    version = repository / "organs" / "1"
    assert f"wrote {version}: onnxruntime fp32" in printed.replace("\n", " ")
    assert load_model(version)[0].name == "organs"
    config = (repository / "organs" / "config.pbtxt").read_text()
    assert "max_batch_size: 4\n" in config
    assert "kind: KIND_CPU\n" in config


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--triton-version", 2], "add --triton DIR"),
        (["--triton", "models", "--name", "two organs"], "give --name"),
        (["--triton", "models", "--triton-version", 0], "version"),
        (["--triton", "models", "--triton-device", "cuda"], "cuda is none of auto, cpu, gpu"),
        (
            ["--triton", "models", "--triton-engine", "model.fp61.onnx"],
            "makes model.onnx, model.fp",
        ),
        (["--triton", "models", "--triton-engine", "model.trt.sm_89.engine"], "this export makes"),
        # Nobody can write there, not even who may write everywhere.
        (["--triton", "/proc/models/of/mine"], "/proc cannot be written to"),
    ],
)
def test_what_triton_cannot_serve_stops_before_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], words: str
):
    monkeypatch.chdir(tmp_path)
    printed = call("export", tmp_path / "run", "--out", tmp_path / "model", *arguments, code=2)
    assert words in " ".join(printed.split())
    assert list(tmp_path.iterdir()) == []
