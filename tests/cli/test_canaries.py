"""Whose scans they are is in no output, log line, message or name of a file, of whatever format."""

import csv
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from pydicom.uid import SecondaryCaptureImageStorage

from tests.cli import canaries
from tests.cli.conftest import blob, call
from tests.cli.watch import Watch
from tests.serve.conftest import run, write_model

pytestmark = pytest.mark.xdist_group("exports")
OF_THE_STUDY = {
    *("Canary-name", "Canary-id", "Canary-issuer", "19010203"),
    *("19990807", "112233.445566", "19990809", "Canary-study-id", "Canary-acc", "Canary-doctor"),
}
"""Of patient and study, which DICOM results share with their source, and its content's date."""


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return canaries.write_marked(tmp_path_factory.mktemp("marked") / "scans")


def column(path: Path, name: str) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row[name] for row in csv.DictReader(file)]


def test_the_search_finds_a_mark_in_each_scan(marked: Path):
    unmarked = {path.name for path in marked.rglob("*") if path.is_file()}
    unmarked -= {Path(name).name for name in canaries.marks_below(marked)}
    assert unmarked == {"c.img"}  # voxels alone


@pytest.mark.slow
def test_measuring_scans_of_each_kind_tells_of_nobody(marked: Path, tmp_path: Path):
    model = write_model(tmp_path / "model")
    watch = Watch(tmp_path / "watch")
    out = watch.outputs
    told = watch.run(
        "wsseg-infer", marked, "--model", model, "--report", out / "ratios.csv",
        "--masks", out / "masks", "--overlays", out / "overlays",
        "--probability", out / "probability", "--json-log", "--verbose",
    )  # fmt: skip
    kinds = {Path(name).suffix for name in column(out / "ratios.csv", "source")}
    assert kinds == {
        *(".dcm", ".nii", ".gz", ".hdr", ".mgh", ".nrrd", ".mha"),
        *(".png", ".jpg", ".gif", ".webp", ".tif", ".pgm"),
    }
    assert canaries.marks_below(out) == {}
    assert canaries.marks(told.encode()) == set()
    # The names under which files and folders were made, read or renamed, temporary ones too.
    assert canaries.marks_below(watch.traces) == {}


@pytest.mark.slow
def test_damaged_scans_are_told_without_what_they_say_of_their_patient(
    marked: Path, tmp_path: Path
):
    damaged = canaries.write_damaged(tmp_path / "damaged", marked)
    out = tmp_path / "out"
    out.mkdir()
    told = call(
        "infer", damaged, "--model", write_model(tmp_path / "model"),
        "--report", out / "ratios.csv", "--masks", out / "masks", "--verbose", code=8,
    )  # fmt: skip
    assert len(set(column(out / "ratios.failures.csv", "reason"))) > 8
    assert canaries.marks_below(out) == {}
    assert canaries.marks(told.encode()) == set()


def test_dicom_results_have_of_their_source_what_is_of_its_study_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    canaries.write_marked_dicom(tmp_path / "scans")
    out = tmp_path / "out"
    with caplog.at_level(logging.DEBUG):
        run(
            write_model(tmp_path / "model"), out / "tables" / "ratios.csv", tmp_path / "scans",
            seg=out / "seg", sr=out / "sr", masks=out / "masks",
        )  # fmt: skip
    found = canaries.marks_below(out)
    assert set(found) == {
        *("seg/1.2.3.7.1.seg.dcm", "sr/1.2.3.7.1.sr.dcm"),
        # Neither a place nor a usable pixel size: measurements, but no segmentation.
        *("sr/1.2.3.7.2.sr.dcm", "sr/1.2.3.7.4.sr.dcm"),
    }
    assert all(seen == OF_THE_STUDY for seen in found.values())
    told = "\n".join(f"{line.getMessage()} {vars(line)}" for line in caplog.records)
    assert canaries.marks(told.encode()) == set()


def write_marked_cases(folder: Path) -> Path:
    """A table of images with masks, half of them DICOM, half TIFF, with marks in both."""
    folder.mkdir()
    lines = ["image,mask,split"]
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "Canary-text")
    for index in range(8):
        pixels, mask = blob(index)
        if index % 2:
            name = f"{index}.dcm"
            # As they come from an archive: an image of 8 bits, which is no CT.
            series = {"SeriesInstanceUID": f"1.2.3.8.{index}", "Modality": "OT"}
            canaries.dicom(
                folder / name, pixels, SOPClassUID=SecondaryCaptureImageStorage,
                Rows=pixels.shape[0], Columns=pixels.shape[1], **series,
            )  # fmt: skip
        else:
            name = f"{index}.tif"
            Image.fromarray(pixels).save(folder / name, description="Canary-tiff")
        Image.fromarray(mask.astype(np.uint8)).save(folder / f"{index}.png", pnginfo=text)
        lines.append(f"{name},{index}.png,{'val' if index > 5 else 'train'}")
    table = folder / "outlined.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert len(canaries.marks_below(folder)) == 16
    return table


@pytest.mark.slow
def test_training_and_export_keep_nothing_of_whose_their_images_are(tmp_path: Path):
    outlined, out = write_marked_cases(tmp_path / "images"), tmp_path / "out"
    cases = out / "cases" / "cases.csv"
    told = [
        call("marks", outlined, "--out", out / "cases", "--percent", 8),
        call("cases", "check", cases, "--picture", out / "cases.png"),
        call(
            "train", cases, "--out", out / "run", "--network", "mobilenet_v2", "--size", 32,
            "--epochs", 2, "--batch", 4, "--accelerator", "cpu", "--precision", "fp32", "--verbose",
        ),
        call("export", out / "run", "--out", out / "model", "--torch", "--verbose"),
    ]  # fmt: skip
    assert canaries.marks_below(out) == {}
    assert canaries.marks("".join(told).encode()) == set()
