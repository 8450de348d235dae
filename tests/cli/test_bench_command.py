from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import call
from wsseg.cli.bench import BenchOptions, compare
from wsseg.serve.manifest import FILE_NAME, Manifest


def test_every_engine_that_runs_here_is_timed_against_fp32(job: Path):
    options = BenchOptions(batch=2, rounds=2, side=40, device="cpu")
    found = compare(job / "model", [], options)
    lines = {(line.engine, line.precision): line for line in found}
    assert len(lines) == len(found)
    assert lines["onnxruntime-cpu", "fp32"].ratio == 1
    assert all(line.slices_per_second and line.ratio for line in lines.values())


def test_the_table_names_each_engine_and_its_rate(job: Path):
    said = call(
        "bench", job / "model", job / "image0.png", "--rounds", 1, "--device", "cpu",
    )  # fmt: skip
    assert "slices/s" in said
    assert "model.onnx" in said
    assert "1.00" in said


def test_an_engine_that_does_not_run_here_says_why(job: Path, tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (job / "model").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    told = (folder / FILE_NAME).read_text(encoding="utf-8")
    manifest = Manifest.model_validate_json(told)
    first = manifest.engines[0]
    broken = first.model_copy(update={"runtime": "tensorrt", "gpu": "sm_86"})
    altered = manifest.model_copy(update={"engines": (broken, first)})
    (folder / FILE_NAME).write_text(altered.model_dump_json(), encoding="utf-8")
    said = call("bench", folder, "--rounds", 1, "--batch", 1, "--side", 40, "--device", "cpu")
    assert "does not run here" in said


@pytest.mark.slow
def test_the_program_of_pytorch_is_timed_only_where_it_is_asked_for(job: Path):
    assert (job / "model" / "model.pt2").is_file()
    short = BenchOptions(batch=1, rounds=1, side=40, device="cpu")
    plain = [line.engine for line in compare(job / "model", [], short)]
    assert "torch-cpu" not in plain
    asked = compare(job / "model", [], replace(short, torch=True))
    assert [line.engine for line in asked if line.slices_per_second] == [*plain, "torch-cpu"]
    assert "model.pt2" in call(
        "bench", job / "model", "--torch", "--rounds", 1, "--batch", 1, "--side", 40,
        "--device", "cpu",
    )  # fmt: skip


def test_scans_without_an_image_are_nothing_to_do(job: Path, tmp_path: Path):
    (tmp_path / "scans").mkdir()
    call("bench", job / "model", tmp_path / "scans", code=3)
