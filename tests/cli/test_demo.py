"""The demo does the whole job: `make demo` is what a newcomer tries first."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import call

pytestmark = pytest.mark.xdist_group("exports")

SLICES = 20
FORMS = 2  # each slice as NIfTI and as DICOM


@pytest.mark.slow
def test_the_demo_leaves_all_that_it_says(tmp_path: Path):
    out = tmp_path / "demo"
    said = call("demo", "--out", out, "--epochs", 1)
    assert "IoU" in said
    with (out / "ratios.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["status"] for row in rows} <= {"ok", "ok_flagged"}
    assert len(rows) == SLICES * FORMS * 2  # two classes
    by_form: dict[bool, list[str]] = {True: [], False: []}
    for row in rows:
        by_form["nii" in row["source"]].append(row["ratio"])
    assert sorted(by_form[True]) == sorted(by_form[False])
    with Image.open(out / "result.png") as picture:
        assert picture.width > 100
    assert (out / "model" / "model.json").is_file()
