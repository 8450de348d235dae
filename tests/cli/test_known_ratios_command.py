"""`wsseg infer --known-ratios` with a model that was trained and exported."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from tests.cli.conftest import call


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def infer(job: Path, report: Path, *more: object, code: int = 0) -> str:
    pictures = [job / f"image{index}.png" for index in range(3)]
    return call("infer", *pictures, "--model", job / "model", "--report", report, *more, code=code)


def test_masks_of_the_known_size_are_written_beside_the_report(job: Path, tmp_path: Path):
    (tmp_path / "known.csv").write_text("source,ratio\nimage0.png,0.125\nimage2.png,0.3\n")
    infer(job, tmp_path / "plain.csv")
    said = infer(job, tmp_path / "r.csv", "--known-ratios", tmp_path / "known.csv")
    assert "2 masks recovered" in said
    assert (tmp_path / "r.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()
    assert [row["source"] for row in rows(tmp_path / "r.recovered.csv")] == [
        "image0.png",
        "image2.png",
    ]
    for name, ratio in (("image0.png", 0.125), ("image2.png", 0.3)):
        with Image.open(tmp_path / "r.recovered" / name) as mask:
            assert np.count_nonzero(np.asarray(mask)) == round(ratio * 48 * 48)


def test_a_row_without_a_picture_ends_with_code_8_and_a_faulty_table_with_2(
    job: Path, tmp_path: Path
):
    known = tmp_path / "known.csv"
    known.write_text("source,ratio\nimage0.png,0.125\nelsewhere.png,0.3\n")
    infer(job, tmp_path / "r.csv", "--known-ratios", known, code=8)
    (told,) = rows(tmp_path / "r.failures.csv")
    assert (told["source"], told["reason"]) == ("elsewhere.png", "known_no_source")
    known.write_text("source,ratio\nimage0.png,12.5\n")
    said = infer(job, tmp_path / "other.csv", "--known-ratios", known, code=2)
    assert "error: known.csv, line 1: ratio: 1 of 1 cells are above 1, the largest 12.5" in said
    assert not (tmp_path / "other.csv").exists()
