"""Tables as spreadsheets write them, read as one looks at them."""

import zipfile
from datetime import date
from pathlib import Path

import openpyxl
import pytest

from wsseg.imaging import TableError, TableOptions, TextTable, WssegError, read_table, tables

KNOWN = frozenset({"image", "ratio", "mark_kind"})


def read(path: Path, content: str | bytes, *ignored: str) -> TextTable:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, KNOWN, TableOptions(ignore_columns=ignored))


def rows(table: TextTable) -> list[tuple[int, dict[str, str]]]:
    return [(row.line, row.cells) for row in table.rows]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("image,ratio\nä.png,0.1\n", 2),
        ("\ufeffimage;ratio\r\n\r\nä.png;0.1\r\n;;\r\n", 3),
        ("image\tratio\nä.png\t0.1\n", 2),
        ("sep=;\nimage;ratio\nä.png;0.1\n", 3),
        ('"sep=\t"\nimage\tratio\nä.png\t0.1\n', 3),
        ("Image,RATIO,,\n ä.png , 0.1,,\n", 2),
        ('image,"ratio"\r"ä.png",0.1\r', 2),
        ("image;ratio\nä.png;0.1\n".encode("utf-16"), 2),
        ("image,ratio\nä.png,0.1\n".encode("cp1252"), 2),
    ],
)
def test_one_table_can_be_written_in_several_ways(tmp_path: Path, content: str | bytes, line: int):
    table = read(tmp_path / "t.csv", content)
    assert rows(table) == [(line, {"image": "ä.png", "ratio": "0.1"})]


def test_text_that_is_not_utf_8_is_read_with_a_warning(tmp_path: Path, caplog):
    read(tmp_path / "t.csv", "image,ratio\nä.png,0.1\n".encode("cp1252"))
    assert "t.csv is not UTF-8 (line 2) and is read as Windows-1252" in caplog.text


def test_a_delimiter_within_quotes_is_none(tmp_path: Path):
    table = read(tmp_path / "t.csv", '"image","x_a;b;c;d","ratio"\na.png,1,0.1\n')
    assert table.header == ("image", "x_a;b;c;d", "ratio")


def test_a_row_has_the_number_of_the_line_it_begins_on(tmp_path: Path):
    table = read(tmp_path / "t.csv", 'image,x_a\na.png,"two\nlines"\n\nb.png,one\n')
    assert [row.line for row in table.rows] == [2, 5]


def test_names_of_columns_and_classes_are_one_however_they_are_typed(tmp_path: Path):
    table = read(tmp_path / "t.csv", "Image,Ratio: Left  kidney,ratio:Nie\u0308re,Mark kind,X_a\n")
    assert table.header == ("image", "ratio:Left kidney", "ratio:Ni\u00ebre", "mark_kind", "X_a")
    assert table.name("image") == "Image"


def test_columns_of_patients_are_passed_over_by_name_or_pattern(tmp_path: Path):
    text = "image,Patient name,Patient ID,Age,ratio\na.png,X,1,40,0.1\n"
    table = read(tmp_path / "t.csv", text, "patient*", "AGE")
    assert rows(table) == [(2, {"image": "a.png", "ratio": "0.1"})]
    assert read(tmp_path / "t.csv", text, "*").header == ("image", "ratio")
    assert "Age" in read(tmp_path / "t.csv", text).header


@pytest.mark.parametrize(
    ("ignored", "fault"),
    [("Adge", "no column Adge is there"), ("Ratio", "has a meaning here and cannot be ignored")],
)
def test_a_column_that_cannot_be_passed_over_is_told(tmp_path: Path, ignored: str, fault: str):
    with pytest.raises(TableError, match=fault):
        read(tmp_path / "t.csv", "image,Age,ratio\na.png,40,0.1\n", ignored)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("image,ratio\na.png\n", "line 2: 1 cells where the header has 2: fill up"),
        ("image,Image\na.png,b.png\n", "2 columns are named image"),
        ("image,\na.png,b\n", "line 1: column 2 has no name"),
        ('image\n"a.png\n', "line 2: not valid CSV"),
    ],
)
def test_a_fault_is_told_with_its_line(tmp_path: Path, text: str, fault: str):
    try:
        faults = read(tmp_path / "t.csv", text).faults
    except TableError as error:
        faults = error.faults
    assert [fault in str(each) for each in faults] == [True]


# --- workbooks ---


def workbook(path: Path, *lines: tuple[object, ...], title: str = "Cases") -> openpyxl.Workbook:
    book = openpyxl.Workbook()
    book.active.title = title
    for line in lines:
        book.active.append(line)
    book.save(path)
    return book


def test_a_workbook_reads_as_it_is_shown(tmp_path: Path):
    path = tmp_path / "t.xlsx"
    lines = ("Image", "ratio", "x_when"), (), ("a.png", 0.0423, date(2026, 3, 4)), ("b.png", 1, "")
    book = workbook(path, *lines)
    book.active["B3"].number_format = "0.00%"
    book.active["B4"].number_format = '0.0" percent of 100%"'
    book.save(path)
    assert rows(read_table(path, KNOWN)) == [
        (3, {"image": "a.png", "ratio": "4.23%", "x_when": "2026-03-04T00:00:00"}),
        (4, {"image": "b.png", "ratio": "1", "x_when": ""}),
    ]


def test_a_sheet_is_found_by_its_name_and_the_first_is_said(tmp_path: Path, caplog):
    book = workbook(tmp_path / "t.xlsx", ("image",), ("a.png",))
    other = book.create_sheet("Known ratios")
    for line in (("image",), ("b.png",)):
        other.append(line)
    book.save(tmp_path / "t.xlsx")
    book.create_sheet("Empty", 0)
    book.save(tmp_path / "t.xlsx")
    assert rows(read_table(tmp_path / "t.xlsx", KNOWN))[0][1] == {"image": "a.png"}
    assert "the sheet Cases is read, of Empty, Cases, Known ratios" in caplog.text
    named = read_table(tmp_path / "t.xlsx", KNOWN, TableOptions(sheet="known Ratios"))
    assert rows(named)[0][1] == {"image": "b.png"}
    with pytest.raises(WssegError, match="has no sheet Sheet2: it has Empty, Cases, Known ratios"):
        read_table(tmp_path / "t.xlsx", KNOWN, TableOptions(sheet="Sheet2"))
    (tmp_path / "t.csv").write_text("image\na.png\n")
    with pytest.raises(WssegError, match="is text and has no sheet"):
        read_table(tmp_path / "t.csv", KNOWN, TableOptions(sheet="Cases"))


def test_cells_whose_value_nobody_sees_are_faults(tmp_path: Path):
    path = tmp_path / "t.xlsx"
    book = workbook(path, ("image", "ratio"), ("a.png", "=1/8"), ("b.png", 0.1), ("c.png", 0.2))
    with pytest.raises(TableError, match="line 2: the formula in B2 has no computed value"):
        read_table(path, KNOWN)
    # As a library writes a formula that it cannot compute, for the program that opens it to do.
    part, value = "xl/worksheets/sheet1.xml", b"<f>1/8</f><v />"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert value in parts[part]
    parts[part] = parts[part].replace(value, b"<f>1/8</f><v>0</v>")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(TableError, match="line 2: the formula in B2 has no computed value"):
        read_table(path, KNOWN)
    book.active["B2"] = 0.125
    book.active.merge_cells("B3:B4")
    book.save(path)
    with pytest.raises(TableError, match="line 3: the cells B3:B4 are merged"):
        read_table(path, KNOWN)


def test_a_workbook_that_is_damaged_anywhere_is_a_table_or_one_clear_error(tmp_path: Path):
    path = tmp_path / "t.xlsx"
    workbook(path, ("image", "ratio"), ("a.png", 0.1))
    content = path.read_bytes()
    refused = 0
    for at in range(40, len(content), 97):
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        try:
            read_table(path, KNOWN)
        except WssegError:
            refused += 1
    assert refused > 20


def test_a_workbook_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch):
    path = tmp_path / "t.xlsx"
    book = workbook(path, ("image", "ratio"), ("a.png", 0.1))
    book.active["XFD1048576"] = "far"
    book.save(path)
    with pytest.raises(WssegError, match="row 1048576 and column 16384, too far away"):
        read_table(path, KNOWN)
    workbook(path, ("image", "ratio"), ("a.png", 0.1))
    monkeypatch.setattr(tables, "MOST_INFLATED", 1000)
    with pytest.raises(WssegError, match="save the table as CSV"):
        read_table(path, KNOWN)
