"""Whole runs: the same rows however they are batched, and no scan costs another its result."""

import hashlib
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.serve.conftest import (
    LEVELS,
    RATIOS_PER_SLICE,
    failures,
    make_manifest,
    picture,
    rows,
    run,
    write_model,
    write_pictures,
)
from wsseg.cli.infer import closing_line
from wsseg.imaging import AllFailedError, Dependence, WssegError
from wsseg.serve.engines.base import EngineError
from wsseg.serve.engines.onnxruntime import OnnxEngine
from wsseg.serve.infer import infer
from wsseg.serve.options import InferOptions


def test_every_slice_has_its_rows_and_every_ratio_is_right(model: Path, scans: Path, tmp_path):
    report = tmp_path / "ratios.csv"
    summary = run(model, report, scans)
    assert (summary.scans, summary.slices, summary.failed, summary.exit_code) == (9, 12, 0, 0)
    found = rows(report)
    assert len(found) == 12 * RATIOS_PER_SLICE
    for row in found:
        if row["source"].endswith("nii.gz"):
            pixels = picture(int(row["slice"]))
        else:
            shape = (30, 26) if "large" in row["source"] else (24, 40)
            pixels = picture(int(Path(row["source"]).stem), shape)
        if row["ratio_name"] == "bright":
            assert int(row["numerator_px"]) == (pixels >= LEVELS[0]).sum()
            assert float(row["ratio"]) == (pixels >= LEVELS[0]).sum() / pixels.size


def test_a_volume_has_its_millimetres(model: Path, scans: Path, tmp_path: Path):
    run(model, tmp_path / "ratios.csv", scans / "volume.nii.gz")
    for row in rows(tmp_path / "ratios.csv"):
        assert float(row["numerator_mm2"]) == pytest.approx(int(row["numerator_px"]) * 0.8 * 0.5)
    for row in rows(tmp_path / "ratios.series.csv"):
        volume = int(row["numerator_px"]) * 0.8 * 0.5 * 3
        assert float(row["numerator_mm3"]) == pytest.approx(volume)


def test_a_pixel_size_that_is_given_counts_where_the_file_has_none(model: Path, tmp_path: Path):
    folder = write_pictures(tmp_path / "scans", 1)
    known = picture(1).astype(np.uint8)
    tifffile.imwrite(
        folder / "known.tif",
        known,
        photometric="minisblack",
        resolution=(50, 50),
        resolutionunit="CENTIMETER",
    )
    for text, area in (("0.5", 0.25), ("0.5,0.2", 0.1), (None, None)):
        report = tmp_path / f"{text}" / "ratios.csv"
        run(model, report, folder, pixel_mm=text)
        for row in rows(report):
            if row["source"] == "known.tif":
                assert float(row["numerator_mm2"]) == pytest.approx(int(row["numerator_px"]) * 0.04)
                assert "PIXEL_MM_GIVEN" not in row["flags"]
            elif area is None:
                assert row["numerator_mm2"] == ""
            else:
                expected = int(row["numerator_px"]) * area
                assert float(row["numerator_mm2"]) == pytest.approx(expected)
                assert "PIXEL_MM_GIVEN" in row["flags"]


@pytest.mark.parametrize("text", ["0", "-1", "half", "1,2,3", "nan", "inf", ""])
def test_a_pixel_size_that_is_none_is_refused(model: Path, tmp_path: Path, text: str):
    with pytest.raises(ValueError, match="pixel_mm"):
        InferOptions.model_validate({"model": model, "pixel_mm": text})


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 1},
        {"batch": 3, "read_ahead": 1, "readers": 1},
        {"batch": 64, "readers": 4},
        {"memory_mb": 1, "batch": 5},
    ],
)
def test_the_tables_are_the_same_bytes_however_the_slices_are_batched(
    model: Path, scans: Path, tmp_path: Path, options: dict[str, int]
):
    run(model, tmp_path / "one" / "ratios.csv", scans)
    run(model, tmp_path / "other" / "ratios.csv", scans, **options)
    for table in (tmp_path / "one").iterdir():
        assert table.read_bytes() == (tmp_path / "other" / table.name).read_bytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("002a.png", b"\x89PNG\r\n\x1a\n cut off"),
        ("002a.nii", b"\x5c\x01\x00\x00" + b"\x00" * 344),
        ("002a.png", b""),
    ],
)
def test_a_broken_file_leaves_the_other_rows_byte_for_byte(
    model: Path, tmp_path: Path, name: str, content: bytes
):
    folder = write_pictures(tmp_path / "scans", 5)
    run(model, tmp_path / "whole" / "ratios.csv", folder)
    (folder / name).write_bytes(content)
    report = tmp_path / "ratios.csv"
    summary = run(model, report, folder)
    assert report.read_bytes() == (tmp_path / "whole" / "ratios.csv").read_bytes()
    (failure,) = failures(report)
    assert failure["source"].endswith(name)
    assert summary.failed + summary.skipped == 1
    assert summary.exit_code == (8 if failure["status"] == "failed" else 0)


def test_a_slice_that_the_engine_cannot_compute_costs_its_scan_only(
    model: Path, tmp_path: Path, monkeypatch
):
    folder = write_pictures(tmp_path / "scans", 4)
    run(model, tmp_path / "whole" / "ratios.csv", folder)
    Image.fromarray(np.full((24, 40), 77, np.uint8)).save(folder / "002a.png")
    compute = OnnxEngine.__call__

    def failing(engine, pixels):
        if (pixels == 77).all((1, 2, 3)).any():
            raise EngineError("CUDA out of memory")
        return compute(engine, pixels)

    monkeypatch.setattr(OnnxEngine, "__call__", failing)
    summary = run(model, tmp_path / "ratios.csv", folder)
    whole = (tmp_path / "whole" / "ratios.csv").read_bytes()
    assert (tmp_path / "ratios.csv").read_bytes() == whole
    (failure,) = failures(tmp_path / "ratios.csv")
    assert (failure["reason"], summary.exit_code) == ("engine", 8)
    assert "CUDA out of memory" in failure["message"]


def test_exit_code_3_where_no_image_is_found(model: Path, tmp_path: Path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "readme.txt").write_text("no image here")
    summary = run(model, tmp_path / "ratios.csv", tmp_path / "scans")
    assert (summary.exit_code, summary.skipped, summary.failed) == (3, 1, 0)
    assert rows(tmp_path / "ratios.csv") == []


def test_exit_code_4_where_every_image_fails(model: Path, tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    assert run(model, tmp_path / "ratios.csv", tmp_path / "broken.png").exit_code == 4


def test_a_missing_input_is_an_error_before_the_run(model: Path, tmp_path: Path):
    with pytest.raises(WssegError, match="nowhere does not exist"):
        run(model, tmp_path / "out" / "ratios.csv", tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_leaves_no_table(model: Path, scans: Path, tmp_path: Path):
    def interrupt(done: int, *_):
        if done > 4:
            raise KeyboardInterrupt

    report = tmp_path / "out" / "ratios.csv"
    options = InferOptions(model=model, report=report, device="cpu", isolate=False)
    with pytest.raises(KeyboardInterrupt):
        infer([scans], options, on_progress=interrupt)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_report_that_cannot_be_written_is_exit_code_4(model: Path, scans: Path, tmp_path: Path):
    (tmp_path / "out").write_text("a file where a folder should be")
    with pytest.raises(AllFailedError, match=r"ratios\.csv could not be written"):
        run(model, tmp_path / "out" / "ratios.csv", scans)


def test_the_log_names_no_file(model: Path, tmp_path: Path, log):
    folder = write_pictures(tmp_path / "scans" / "canary_patient", 2)
    (folder / "canary_broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    with log.at_level(logging.DEBUG, "wsseg.serve"):
        run(model, tmp_path / "ratios.csv", tmp_path / "scans", masks=tmp_path / "masks")
    events = [record for record in log.records if record.name.startswith("wsseg.serve")]
    assert {r.event for r in events} >= {"run_started", "scan_measured", "file_failed", "run_ended"}
    assert not any("canary" in str(vars(record)) for record in events)


def test_progress_ends_at_all_slices(model: Path, scans: Path, tmp_path: Path):
    heard: list[tuple[int, int, float]] = []
    options = InferOptions(
        model=model, report=tmp_path / "r.csv", device="cpu", batch=2, isolate=False
    )
    infer([scans], options, on_progress=lambda *news: heard.append(news))
    assert [done for done, *_ in heard] == sorted(done for done, *_ in heard)
    assert heard[-1][:2] == (12, 12)
    assert all(done <= met for done, met, _ in heard)


def test_rows_name_the_engine_and_the_file_that_ran(model: Path, scans: Path, tmp_path: Path):
    summary = run(model, tmp_path / "ratios.csv", scans)
    sha256 = hashlib.sha256((model / "model.onnx").read_bytes()).hexdigest()
    for row in rows(tmp_path / "ratios.csv"):
        assert (row["engine"], row["precision"]) == (summary.engine, "fp32")
        assert (row["model"], row["model_sha256"]) == ("threshold", sha256)


def test_colour_pictures_go_through_a_colour_network(tmp_path: Path):
    colour = write_model(tmp_path / "colour", channels=3)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    run(colour, tmp_path / "ratios.csv", tmp_path / "a.png")
    row, *_ = rows(tmp_path / "ratios.csv")
    grey = pixels.astype(np.float32).mean(-1)
    assert int(row["numerator_px"]) == (grey >= LEVELS[0]).sum()


def test_a_second_run_replaces_the_tables_of_the_first_only_when_told_to(
    model: Path, tmp_path: Path
):
    folder = write_pictures(tmp_path / "scans", 3)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    first = run(model, tmp_path / "ratios.csv", folder)
    (folder / "broken.png").unlink()
    shutil.rmtree(folder)
    write_pictures(folder, 2)
    before = [table.read_bytes() for table in first.tables]
    with pytest.raises(WssegError, match=r"ratios.csv is there already: give --overwrite"):
        run(model, tmp_path / "ratios.csv", folder)
    first.tables[0].rename(tmp_path / "moved.csv")
    with pytest.raises(WssegError, match=r"ratios.series.csv is there already"):
        run(model, tmp_path / "ratios.csv", folder)
    (tmp_path / "moved.csv").rename(first.tables[0])
    assert [table.read_bytes() for table in first.tables] == before
    run(model, tmp_path / "ratios.csv", folder, overwrite=True)
    assert len(rows(tmp_path / "ratios.csv")) == 2 * RATIOS_PER_SLICE
    assert failures(tmp_path / "ratios.csv") == []


def test_an_error_of_the_system_outside_the_report_is_not_put_on_it(
    model: Path, scans: Path, tmp_path: Path
):
    def no_device(*_):
        raise OSError(19, "No such device")

    options = InferOptions(model=model, report=tmp_path / "r.csv", device="cpu", isolate=False)
    with pytest.raises(OSError, match="No such device"):
        infer([scans], options, on_progress=no_device)


def test_two_runs_do_not_write_one_report_at_a_time(model: Path, scans: Path, tmp_path: Path):
    report = tmp_path / "ratios.csv"
    refused: list[WssegError] = []

    def beside(done: int, _known: int, _rate: float) -> None:
        if not refused:
            with pytest.raises(WssegError, match="another run is writing") as caught:
                run(model, report, scans, overwrite=True)
            refused.append(caught.value)

    options = InferOptions(model=model, report=report, device="cpu", isolate=False)
    summary = infer([scans], options, on_progress=beside)
    assert refused
    assert len(rows(report)) == summary.slices * RATIOS_PER_SLICE
    assert not list(tmp_path.glob(".lock-*"))


def test_a_model_that_ignores_its_images_is_told_of_in_the_closing_line(
    scans: Path, tmp_path: Path, model: Path
):
    ignoring = make_manifest().training.model_copy(
        update={"dependence": Dependence(cases=12, ignored=("bright",))}
    )
    blind = write_model(tmp_path / "blind", training=ignoring)
    told = closing_line(run(blind, tmp_path / "r.csv", scans))
    assert "WARNING: the network hardly looks at the image: its masks of bright" in told
    assert "WARNING" not in closing_line(run(model, tmp_path / "s.csv", scans))
