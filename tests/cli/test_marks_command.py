"""`wsseg marks` from the command line."""

import csv
from pathlib import Path

import pytest

from tests.cli.conftest import call, write_outlined
from wsseg.train.cases import read_cases


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("flags", "columns"),
    [
        (["--percent", 8], {"marks", "mark_kind"}),
        (["--kind", "disc", "--per-component"], {"marks", "mark_kind"}),
        (["--kind", "scribble", "--seed", 3], {"marks", "mark_kind"}),
        (["--kind", "box"], {"box"}),
        (["--kind", "extremes"], {"extremes"}),
        (["--kind", "moments"], {"centroid", "spread"}),
    ],
)
def test_every_kind_gives_a_table_to_train_on(tmp_path, flags, columns):
    outlined = write_outlined(tmp_path, 4)
    said = call("marks", outlined, "--out", tmp_path / "out", *flags)
    path = tmp_path / "out" / "cases.csv"
    assert "marked 4 of 4 cases (train 3, val 1)" in " ".join(said.split())
    assert said.splitlines()[-1] == f"wrote {path}"
    assert set(rows(path)[0]) == {"image", "mask", "split", "ratio", *columns}
    assert len(read_cases(path).cases) == 4


def test_few_marks_wrong_ratios_and_no_masks(tmp_path):
    outlined = write_outlined(tmp_path, 8)
    call(
        "marks", outlined, "--out", tmp_path / "out", "--kind", "random-disc", "--share", 50,
        "--ratio-noise", 40, "--drop-masks",
    )  # fmt: skip
    table = rows(tmp_path / "out" / "cases.csv")
    assert all(bool(row["mask"]) == (row["split"] != "train") for row in table)
    assert len(read_cases(tmp_path / "out" / "cases.csv").cases) == 8
    found = [row for row in table if row["split"] == "train"]
    assert sum(bool(row["marks"]) for row in found) == 3
    assert all(0 < float(row["ratio"]) < 1 for row in found)


def test_an_unknown_kind_is_told_with_those_that_exist(tmp_path):
    outlined = write_outlined(tmp_path, 4)
    said = call("marks", outlined, "--out", tmp_path / "out", "--kind", "discs", code=2)
    assert said.startswith("error: --kind: discs is none of erode, disc, random-disc, ")
    assert said.rstrip().endswith("did you mean disc?")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--percent", "--share", "--ratio-noise"])
def test_more_than_all_is_told_with_the_option_and_its_limit(tmp_path, option):
    said = call("marks", tmp_path / "none.csv", "--out", tmp_path / "out", option, 150, code=2)
    assert option in said
    assert "100" in said
    assert "Value error" not in said


def test_a_table_without_masks_is_wrong_usage(tmp_path):
    write_outlined(tmp_path, 1)
    table = tmp_path / "ratios.csv"
    table.write_text("image,ratio\nimage0.png,0.1\n", encoding="utf-8")
    said = call("marks", table, "--out", tmp_path / "out", code=2)
    assert "add a column mask" in said
