"""docs/python.md shows what is so."""

import csv

import numpy as np

from tests.api.conftest import Guide


def test_the_run_has_figures_of_its_validation_cases(guide: Guide):
    assert 0 <= guide.names["run"].metrics["iou"] <= 1


def test_a_scan_that_is_measured_equals_the_rows_that_are_written(guide: Guide):
    with (guide.folder / "ratios.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["source"]: row["ratio"] for row in csv.DictReader(file)}
    scans = list(guide.names["model"].measure(guide.folder / "scans"))
    assert {scan.source: scan.ratios["roi"] for scan in scans} == {
        source: float(ratio) for source, ratio in rows.items()
    }
    assert [row.ratio for scan in scans for row in scan.slices] == [
        scan.slice_ratios["roi"][0] for scan in scans
    ]
    assert {path.name for path in (guide.folder / "masks").glob("2*.png")} == set(rows)


def test_the_agreement_has_the_pairs_of_the_scans_and_its_files(guide: Guide):
    found = guide.names["found"]
    assert [pair.measured.cells["source"] for pair in found.pairs] == ["20.png", "21.png", "22.png"]
    bias = np.mean([pair.ratio - pair.readings[0] for pair in found.pairs])
    assert np.isclose(found.figures("roi")["bias"].value, bias)
    assert (guide.folder / "agreement.txt").read_text(encoding="utf-8") == found.text


def test_a_broken_file_is_a_failure_and_stops_nothing(guide: Guide):
    assert [failure.source for failure in guide.names["scans"].failures] == ["broken.png"]
    assert guide.names["summary"].scans == 3


def test_what_is_printed_is_only_what_the_examples_print(guide: Guide):
    lines = guide.printed.splitlines()
    assert len(lines) == 1 + 4 + 3 + 1 + 1 + 1 + 1
    assert lines[-1].startswith("run already holds a run")


def test_one_slice_has_the_ratio_that_its_file_has(guide: Guide):
    result = guide.names["result"]
    assert result.masks.shape == (1, *guide.names["pixels"].shape)
    assert np.array_equal(result.masks[0], result.labels == 1)
    assert result.areas == {"roi": int(result.masks.sum())}
    (scan,) = guide.names["model"].measure(guide.folder / "images" / "p01.png")
    assert scan.ratios == result.ratios == {"roi": result.masks.mean()}
    assert np.array_equal(scan.labels[0], result.labels)
