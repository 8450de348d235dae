"""Recorded tables as people and spreadsheets write them, and reports of every format."""

import csv
from pathlib import Path

import numpy as np
import openpyxl
import pytest

from tests.serve.agreement import measured_rows, write_report
from wsseg.imaging.errors import WssegError
from wsseg.serve.agreement.compare import compare
from wsseg.serve.agreement.tables import AgreeOptions
from wsseg.serve.report import SeriesOrigin, SeriesRatio, SeriesRow, open_report

MEASURED = (0.0812, 0.1234, 0.0056, 0.31)
RECORDED = (0.0831, 0.1190, 0.0063, 0.30)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return write_report(tmp_path / "ratios.csv", {"lesion": MEASURED})


def plain(path: Path) -> Path:
    rows = [f"p{at:02}.png,{ratio}\n" for at, ratio in enumerate(RECORDED)]
    path.write_text("source,ratio\n" + "".join(rows))
    return path


def of_excel(path: Path) -> Path:
    """As a German Excel saves "CSV UTF-8": a byte order mark, semicolons, decimal commas, CRLF."""
    rows = [
        f"p{at:02}.png;{100 * r:.2f}".replace(".", ",").replace(",png", ".png")
        for at, r in enumerate(RECORDED)
    ]
    path.write_bytes(("\ufeffSource;Ratio Percent\r\n" + "\r\n".join(rows) + "\r\n").encode())
    return path


def with_signs(path: Path) -> Path:
    rows = [f"p{at:02}.png\t{100 * ratio:.2f} %\n" for at, ratio in enumerate(RECORDED)]
    path.write_text("source\tratio\n" + "".join(rows), encoding="utf-16")
    return path


def workbook(path: Path) -> Path:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["source", "ratio", "remark"])
    for at, ratio in enumerate(RECORDED):
        sheet.append([f"p{at:02}.png", ratio, "seen"])
        sheet.cell(at + 2, 2).number_format = "0.00%"
    path = path.with_suffix(".xlsx")
    book.save(path)
    return path


@pytest.mark.parametrize("write", [plain, of_excel, with_signs, workbook], ids=lambda f: f.__name__)
def test_the_recorded_ratios_are_the_same_however_the_table_is_written(write, report, tmp_path):
    found = compare(report, write(tmp_path / "recorded.csv"))
    assert [pair.readings for pair in found.pairs] == [(ratio,) for ratio in RECORDED]
    bias = found.figures("lesion")["bias"].value
    assert bias == pytest.approx(np.mean(MEASURED) - np.mean(RECORDED))


def test_a_column_of_another_name_in_percent_is_read_when_both_are_said(report, tmp_path):
    table = tmp_path / "recorded.csv"
    table.write_text("Datei;Anteil\np00.png;8,31\np01.png;11,90\np02.png;0,63\n")
    options = AgreeOptions(key="datei", recorded_column=("anteil",), percent=True)
    found = compare(report, table, options)
    assert [pair.readings[0] for pair in found.pairs] == pytest.approx(RECORDED[:3])
    with pytest.raises(WssegError, match="--percent"):
        compare(report, table, AgreeOptions(key="datei", recorded_column=("anteil",)))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_report_of_any_format_gives_the_figures_of_the_csv(suffix, report, tmp_path):
    recorded = plain(tmp_path / "recorded.csv")
    other = write_report(tmp_path / f"other{suffix}", {"lesion": MEASURED})
    assert compare(other, recorded).figures() == compare(report, recorded).figures()


def test_a_report_that_a_spreadsheet_saved_again_gives_the_same_figures(report, tmp_path):
    recorded = plain(tmp_path / "recorded.csv")
    with report.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    at = rows[0].index("ratio")
    for row in rows[1:]:
        row[at] = row[at].replace(".", ",")
    saved = tmp_path / "saved.csv"
    with saved.open("w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream, delimiter=";").writerows(rows)
    assert compare(saved, recorded).figures() == compare(report, recorded).figures()


def test_series_are_compared_by_their_volume_ratio_or_by_their_mean_ratio(tmp_path):
    (row, *_) = measured_rows({"lesion": [0.1]})
    series = [
        SeriesRow(
            SeriesOrigin("a.nii", "CT", "1", f"1.{at}", None, 0, "axial"),
            SeriesRatio("lesion", "lesion", "image", 9, 1, 9, None, None, r, r / 2, "", "ok"),
            row.provenance,
        )
        for at, r in enumerate((0.1, 0.2, 0.3))
    ]
    with open_report(tmp_path / "r.csv") as tables:
        tables.series(series)
    recorded = tmp_path / "recorded.csv"
    recorded.write_text("series_uid,ratio\n1.0,0.1\n1.1,0.2\n1.2,0.3\n")
    by_volume = compare(tmp_path / "r.series.csv", recorded).figures()
    assert by_volume["bias"].value == 0
    by_mean = AgreeOptions(measured_column="mean_ratio")
    halved = compare(tmp_path / "r.series.csv", recorded, by_mean).figures()["bias"].value
    assert halved == pytest.approx(-0.1)
    recorded.write_text("series_uid,slice,ratio\n1.0,4,0.1\n")
    with pytest.raises(WssegError, match=r"one row a series: compare with the table of slices"):
        compare(tmp_path / "r.series.csv", recorded)


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (
            "source,area\np00.png,3\n",
            {},
            "no column ratio: name .* --recorded-column; it has source",
        ),
        ("name,ratio\np00.png,0.1\n", {}, "none of the columns instance_uid.* --key; it has name"),
        ("source,ratio\np00.png,0.1\n", {"by": ("site",)}, "--by site: neither table"),
        (
            "source,ratio\np00.png,0.1\n",
            {"patient": "id"},
            "--patient id: .* columns source, ratio",
        ),
        ("source,ratio\np00.png,0.1\n", {"key": "id"}, "has no column id: it has source, ratio"),
        ("source,ratio\np00.png,8.3\n", {}, "line 1: ratio: 1 of 1 cells are above 1"),
        ("source,ratio\np00.png,\n", {}, "no row has a ratio"),
        (
            "source,ratio\nother.png,0.1\n",
            {},
            "of line 2, no measured row has this source.* is p00.png.*--key",
        ),
    ],
)
def test_what_cannot_be_compared_is_an_error_that_says_what_to_do(
    table, options, message, report, tmp_path
):
    recorded = tmp_path / "recorded.csv"
    recorded.write_text(table)
    with pytest.raises(WssegError, match=message):
        compare(report, recorded, AgreeOptions(**options))


def test_tables_in_the_wrong_order_are_told_apart(report, tmp_path):
    with pytest.raises(WssegError, match=r"expected ratios\.csv .* first"):
        compare(plain(tmp_path / "recorded.csv"), report)
