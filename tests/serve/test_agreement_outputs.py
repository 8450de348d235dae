"""What a comparison writes: tables, text and plots, equal for equal input."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wsseg
from tests.serve.agreement import write_report
from tests.serve.conftest import full_disk
from wsseg.imaging.errors import AllFailedError, WssegError
from wsseg.serve.agreement import compare as comparing
from wsseg.serve.agreement.figures import FIGURES
from wsseg.serve.agreement.reference import compare_run
from wsseg.serve.agreement.tables import AgreeOptions

N = 40


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """A report, and recorded ratios of patients with names and of two scanners."""
    random = np.random.default_rng(2)
    ratios = random.uniform(0.01, 0.3, N)
    report = write_report(tmp_path / "ratios.csv", {"lesion": ratios.tolist()})
    noisy = np.clip(ratios + 0.01 * random.normal(size=N), 0, 1)
    rows = [f"p{at:02}.png,Doe^Jane{at // 2},S{at % 2},{ratio}\n" for at, ratio in enumerate(noisy)]
    recorded = tmp_path / "recorded.csv"
    recorded.write_text("source,patient,scanner,ratio\n" + "".join(rows) + "gone.png,X,S1,0.1\n")
    return report, recorded


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_tables_of_figures_pairs_and_rows_without_a_partner_are_written(tables, tmp_path):
    found = wsseg.agree(*tables, out=tmp_path / "a.csv", by=["scanner"])
    figures = rows_of(tmp_path / "a.csv")
    assert [(row["by"], row["group"]) for row in figures[:: len(FIGURES)]] == [
        ("", ""),
        ("scanner", "S0"),
        ("scanner", "S1"),
    ]
    icc = next(row for row in figures if row["figure"] == "icc_2_1")
    estimate = found.figures()["icc_2_1"]
    assert [float(icc[name]) for name in ("value", "low", "high")] == [
        estimate.value,
        estimate.low,
        estimate.high,
    ]
    assert (icc["images"], icc["patients"]) == ("40", "20")
    assert all(row["note"] for row in figures if not row["value"])
    pairs = rows_of(tmp_path / "a.pairs.csv")
    assert len(pairs) == N
    assert all(float(p["difference"]) == float(p["measured"]) - float(p["recorded"]) for p in pairs)
    (left,) = rows_of(tmp_path / "a.unmatched.csv")
    assert (left["table"], left["line"], left["key"]) == ("recorded", "42", "gone.png")


def test_the_text_names_numbers_method_versions_and_hashes(tables, tmp_path):
    found = wsseg.agree(*tables, out=tmp_path / "a.csv")
    text = (tmp_path / "a.txt").read_text(encoding="utf-8")
    assert text == found.text
    for words in (
        "lesion: 40 images of 20 patients",
        f"Bias (measured less recorded) {100 * (found.figures()['bias'].value or 0):.3g} perc",
        "Zou, Stat Methods Med Res 2013",
        "model lesions (sha256 abababababab)",
        f"wsseg {wsseg.__version__}, numpy",
        "1 recorded (no_image)",
    ):
        assert words in text


def test_other_formats_have_the_same_rows(tables, tmp_path):
    wsseg.agree(*tables, out=tmp_path / "a.csv")
    wsseg.agree(*tables, out=tmp_path / "b.jsonl")
    expected = rows_of(tmp_path / "a.csv")
    lines = (tmp_path / "b.jsonl").read_text().splitlines()
    for row, line in zip(expected, map(json.loads, lines), strict=True):
        assert {name: "" if cell is None else str(cell) for name, cell in line.items()} == row


@pytest.mark.slow
def test_plots_are_drawn_as_png_and_svg_and_equal_input_gives_equal_bytes(tables, tmp_path):
    names = [f"lesion.{kind}" for kind in ("bland-altman", "qq", "scatter")]
    names += [f"lesion.scanner.S1.{kind}" for kind in ("bland-altman", "qq", "scatter")]
    wsseg.agree(*tables, plots=tmp_path / "groups", by=["scanner"])
    written = {path.name for path in (tmp_path / "groups").iterdir()}
    assert written >= {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}
    for folder in ("one", "two"):
        wsseg.agree(*tables, out=tmp_path / f"{folder}.csv", plots=tmp_path / folder)
    for name in sorted(path.name for path in (tmp_path / "one").iterdir()):
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes()
        assert b"<dc:date>" not in content
    with Image.open(tmp_path / "one" / "lesion.bland-altman.png") as picture:
        # Points, limits and trend have the colours that every kind of colour vision tells apart.
        seen = {tuple(pixel[:3]) for pixel in np.asarray(picture).reshape(-1, 4).tolist()}
    assert {(213, 94, 0), (0, 158, 115)} <= seen
    for suffix in ("csv", "pairs.csv", "unmatched.csv", "txt"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (
            tmp_path / f"two.{suffix}"
        ).read_bytes()


def test_no_name_of_a_patient_is_in_what_is_written(tables, tmp_path):
    wsseg.agree(*tables, out=tmp_path / "out" / "a.csv")
    for path in (tmp_path / "out").iterdir():
        assert "Doe" not in path.read_text(encoding="utf-8")


def test_earlier_files_are_replaced_only_if_asked_and_inputs_never(tables, tmp_path):
    wsseg.agree(*tables, out=tmp_path / "a.csv")
    with pytest.raises(WssegError, match=r"a\.csv is there already: give --overwrite"):
        wsseg.agree(*tables, out=tmp_path / "a.csv")
    wsseg.agree(*tables, out=tmp_path / "a.csv", overwrite=True)
    with pytest.raises(WssegError, match=r"would replace the input .*recorded\.csv"):
        wsseg.agree(*tables, out=tables[1], overwrite=True)


@pytest.mark.parametrize("with_tables", [True, False])
def test_plots_that_do_not_fit_on_the_disk_are_told(tables, tmp_path, with_tables):
    wsseg.agree(*tables)  # what matplotlib caches is written
    out = tmp_path / "a.csv" if with_tables else None
    told = pytest.raises(AllFailedError, match=r"could not be written: .*File too large")
    with full_disk(0 if with_tables else 100), told:
        wsseg.agree(*tables, out=out, plots=tmp_path / "plots")


def test_a_notebook_shows_the_figures_with_their_intervals(tables):
    shown = wsseg.agree(*tables)._repr_html_()
    assert "lesion (n = 40)" in shown
    assert "ICC(2,1), absolute agreement</td><td>0.9" in shown


def test_a_missing_package_is_one_line_that_says_what_to_install(tables, monkeypatch):
    monkeypatch.setattr(comparing, "find_spec", lambda name: None)
    with pytest.raises(WssegError, match=r"pip install 'wsseg\[agree\]'"):
        wsseg.agree(*tables)


def test_a_fault_of_a_library_costs_a_run_its_comparison_alone_and_quotes_no_cell(
    tables, monkeypatch, log
):
    def fail(*_arguments):
        raise ValueError("could not convert string to float: 'Doe^Jane0'")

    monkeypatch.setattr(comparing, "compared", fail)
    found = compare_run(tables[1], tables[0], AgreeOptions())
    assert found.failed
    assert "recorded.csv: it stopped with ValueError" in found.words
    assert "Doe" not in found.words + log.text
