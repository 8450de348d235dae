"""Tables read back what was written, in every format, and start no formula."""

import csv
import json
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsseg.imaging import WssegError
from wsseg.serve.report import (
    FORMULA_STARTS,
    PARQUET_ROWS,
    FailureRow,
    Provenance,
    SliceOrigin,
    SliceRatio,
    SliceRow,
    columns,
    csv_table,
    json_lines,
    table_writer,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
real = st.none() | st.floats(allow_nan=False, allow_infinity=False)


def row(source: str = "a", ratio: float | None = 0.5, pixels: int = 3) -> SliceRow:
    return SliceRow(
        SliceOrigin(source, "CT", "", "", "", None, 0, "axial"),
        SliceRatio(
            *("r", "n", "d"), pixels, 6, None, -1.5, ratio, None, None, None, flags="", status="ok"
        ),
        Provenance("m", "s", "e", "fp32", "0"),
    )


def write_csv(path: Path, rows) -> list[dict[str, str]]:
    with csv_table(path, SliceRow) as write:
        write(rows)
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, strict=True))


@given(source=text, ratio=real, pixels=st.integers(0, 2**60))
def test_csv_cells_read_back_equal(tmp_path_factory, source, ratio, pixels):
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    (found,) = write_csv(path, [row(source, ratio, pixels)])
    made_inert = source.startswith(FORMULA_STARTS)
    assert found["source"] == ("'" + source if made_inert else source)
    assert (float(found["ratio"]) if found["ratio"] else None) == ratio
    assert int(found["numerator_px"]) == pixels
    assert (found["frame"], found["numerator_mm2"]) == ("", "")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_text_is_no_formula_and_numbers_stay_numbers(tmp_path: Path, start: str):
    (found,) = write_csv(tmp_path / "x.csv", [row(f'{start}HYPERLINK("x")', ratio=-0.25)])
    assert found["source"] == f'\'{start}HYPERLINK("x")'
    assert (found["ratio"], found["denominator_mm2"]) == ("-0.25", "-1.5")


def test_csv_is_rfc_4180_without_a_byte_order_mark(tmp_path: Path):
    write_csv(tmp_path / "x.csv", [row("münchen,\n1")])
    content = (tmp_path / "x.csv").read_bytes()
    assert content.startswith(b"source,modality,")
    assert '"münchen,\n1",CT,'.encode() in content
    assert content.count(b"\r\n") == 2
    assert content.endswith(b"\r\n")


def test_a_number_that_is_none_is_an_empty_cell(tmp_path: Path):
    found = write_csv(tmp_path / "x.csv", [row(ratio=math.nan), row(ratio=math.inf)])
    assert [line["ratio"] for line in found] == ["", ""]


def test_a_file_name_that_is_no_unicode_is_written_all_the_same(tmp_path: Path):
    (found,) = write_csv(tmp_path / "x.csv", [row("\udcff.png")])
    assert found["source"] == "\\udcff.png"


@given(source=text, ratio=real)
def test_json_lines_read_back_equal_and_unknown_is_null(tmp_path_factory, source, ratio):
    path = tmp_path_factory.getbasetemp() / "cells.jsonl"
    with json_lines(path, SliceRow) as write:
        write([row(source, ratio), row("b")])
    first, second = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    assert (first["source"], first["ratio"], first["frame"]) == (source, ratio, None)
    assert list(first) == list(second) == list(columns(SliceRow))


def test_parquet_reads_back_equal_with_types(tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    rows = [row(f"={index}", index / 7 if index % 2 else None) for index in range(PARQUET_ROWS + 5)]
    with table_writer(path)(path, SliceRow) as write:
        for one in rows:
            write([one])
    table = parquet.read_table(path)
    assert table.column_names == list(columns(SliceRow))
    assert table["ratio"].to_pylist() == [one.measured.ratio for one in rows]
    assert table["source"].to_pylist() == [one.origin.source for one in rows]
    assert {str(table.schema.field(n).type) for n in ("frame", "slice")} == {"int64"}


def test_a_table_without_rows_has_its_header(tmp_path: Path):
    with csv_table(tmp_path / "x.csv", FailureRow):
        pass
    assert (tmp_path / "x.csv").read_text() == "source,status,reason,message\n"


@pytest.mark.parametrize("name", ["ratios.xlsx", "ratios", "ratios.csv.gz"])
def test_another_suffix_is_refused_naming_the_known(name: str):
    with pytest.raises(WssegError, match=r"\.csv, \.jsonl, \.parquet"):
        table_writer(Path(name))


def test_parquet_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(WssegError, match=r"pip install 'wsseg\[parquet\]'"):
        table_writer(Path("ratios.parquet"))
