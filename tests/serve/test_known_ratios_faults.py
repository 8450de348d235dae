"""What a run with ratios on file says of rows, models and places that it cannot use."""

from pathlib import Path

import pytest
from PIL import Image

from tests.serve.conftest import (
    failures,
    run,
    threshold_graph,
    write_model,
    write_pictures,
)
from tests.serve.recovery import BOTH, recover, smooth, write_scans
from wsseg.imaging import WssegError
from wsseg.serve.engines.base import EngineError
from wsseg.serve.engines.onnxruntime import OnnxEngine
from wsseg.serve.infer import infer
from wsseg.serve.options import InferOptions
from wsseg.serve.report import recovered_paths


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the threshold model with a ratio over the image for each class."""
    return write_model(tmp_path_factory.mktemp("model") / "model", ratios=BOTH)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pictures 0.png to 3.png, and a volume of three slices."""
    return write_scans(tmp_path / "scans")


def test_rows_that_fit_no_slice_are_failures_and_the_others_are_recovered(
    model: Path, pictures: Path, tmp_path: Path
):
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    text = (
        "source,slice,ratio:bright\nelsewhere.png,,0.1\n0.png,,0.1\nbroken.png,,0.1\n"
        "volume.nii.gz,,0.1\nvolume.nii.gz,3,0.1\n"
    )
    summary, (row,), _ = recover(model, tmp_path, text, pictures)
    told = failures(tmp_path / "out" / "ratios.csv")[1:]
    assert [(failure["source"], failure["reason"]) for failure in told] == [
        ("elsewhere.png", "known_no_source"),
        ("broken.png", "known_not_measured"),
        ("volume.nii.gz", "known_several_slices"),
        ("volume.nii.gz", "known_no_slice"),
    ]
    assert all(failure["message"].startswith("known.csv, line ") for failure in told)
    assert row["source"] == "0.png"
    assert (summary.exit_code, summary.failed, summary.recovered) == (8, 5, 1)


def test_a_slice_that_the_engine_cannot_compute_recovers_nothing_and_says_so(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch
):
    def failing(*_, **__):
        raise EngineError("CUDA out of memory")

    monkeypatch.setattr(OnnxEngine, "with_probability", failing)
    text = "source,ratio:bright\n0.png,0.3\n"
    summary, table, masks = recover(model, tmp_path, text, pictures)
    reasons = [failure["reason"] for failure in failures(tmp_path / "out" / "ratios.csv")]
    assert (table, reasons) == ([], ["engine", "known_not_measured"])
    assert list(masks.iterdir()) == []
    assert (summary.exit_code, summary.scans) == (8, 4)


def test_a_file_name_alone_will_do_where_it_is_the_only_one(model: Path, tmp_path: Path):
    for folder in ("siteA", "siteB"):
        write_pictures(tmp_path / folder, 1)
    Image.fromarray(smooth(0)).save(tmp_path / "siteB" / "only.png")
    inputs = (tmp_path / "siteA", tmp_path / "siteB")
    text = "source,ratio:bright\nonly.png,0.3\nsiteA/000.png,0.2\n"
    _, table, _ = recover(model, tmp_path, text, *inputs)
    assert [row["source"] for row in table] == ["siteA/000.png", "siteB/only.png"]
    with pytest.raises(WssegError, match="line 2: 2 files are called so: give the path"):
        recover(*(model, tmp_path, "source,ratio:bright\n000.png,0.3\n", *inputs), overwrite=True)


@pytest.mark.parametrize(
    "text",
    [
        "source,ratio:bright\n0.png,30\n",
        "source,ratio:share\n0.png,0.3\n",
        "source,ratio:bright\n0.png,0.3\n0.png,0.2\n",
    ],
)
def test_a_faulty_table_ends_the_run_before_it_begins(
    model: Path, pictures: Path, tmp_path: Path, text: str, monkeypatch
):
    monkeypatch.setattr("wsseg.serve.pipeline.read", lambda _: pytest.fail("a scan was read"))
    with pytest.raises(WssegError, match=r"known\.csv, line") as error:
        recover(model, tmp_path, text, pictures)
    assert error.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_model_exported_without_probability_says_to_export_it_again(
    pictures: Path, tmp_path: Path
):
    old = write_model(tmp_path / "old", threshold_graph(probability=False), ratios=BOTH)
    with pytest.raises(WssegError, match="run wsseg-export again") as error:
        recover(old, tmp_path, "source,ratio:bright\n0.png,0.3\n", pictures)
    assert "\n" not in str(error.value)
    assert run(old, tmp_path / "ratios.csv", pictures).exit_code == 0


def test_recovered_masks_are_written_neither_among_the_inputs_nor_among_measured_ones(
    model: Path, pictures: Path, tmp_path: Path
):
    (tmp_path / "known.csv").write_text("source,ratio:bright\n0.png,0.3\n")
    known = {"known_ratios": tmp_path / "known.csv"}
    with pytest.raises(WssegError, match="another place for the report, beside which it lies"):
        run(model, pictures / "ratios.csv", pictures, **known)
    with pytest.raises(WssegError, match=r"both go to .*: choose two folders"):
        run(model, tmp_path / "r.csv", pictures, masks=tmp_path / "r.recovered", **known)


def test_an_interrupted_run_leaves_no_table_of_recovered_masks(
    model: Path, pictures: Path, tmp_path: Path
):
    def interrupt(done: int, *_):
        if done > 2:
            raise KeyboardInterrupt

    (tmp_path / "known.csv").write_text("source,ratio:bright\n0.png,0.3\n")
    report = tmp_path / "out" / "ratios.csv"
    options = InferOptions(
        model=model,
        report=report,
        device="cpu",
        isolate=False,
        batch=1,
        known_ratios=tmp_path / "known.csv",
    )
    with pytest.raises(KeyboardInterrupt):
        infer([pictures], options, on_progress=interrupt)
    assert [path.name for path in report.parent.iterdir()] == ["ratios.recovered"]


def test_a_recovered_mask_that_cannot_be_written_is_told(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch
):
    def failing(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wsseg.serve.outputs.write_labels", failing)
    text = "source,ratio:bright\n0.png,0.3\n"
    summary, _, _ = recover(model, tmp_path, text, pictures)
    (told,) = failures(tmp_path / "out" / "ratios.csv")
    assert (told["source"], told["reason"], summary.exit_code) == ("0.png", "no_space", 8)
    assert "No space left on device" in told["message"]


def test_the_recovered_table_has_the_format_of_the_report(
    model: Path, pictures: Path, tmp_path: Path
):
    (tmp_path / "known.csv").write_text("source,ratio:bright\n0.png,0.3\n")
    report = tmp_path / "out" / "r.jsonl"
    run(model, report, pictures, known_ratios=tmp_path / "known.csv")
    assert recovered_paths(report)[0].read_text().count("\n") == 1
    assert recovered_paths(report) == (
        report.with_name("r.recovered.jsonl"),
        report.with_name("r.recovered"),
    )
