"""The change of a ratio between examinations, and when there is none to be told."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from tests.imaging.conftest import _write_dicom
from tests.serve.conftest import full_disk, rows, run, write_model
from wsseg.imaging.errors import AllFailedError, SomeFailedError, WssegError
from wsseg.imaging.tables import TableError
from wsseg.serve.change import (
    LEAST_COHORT,
    Measured,
    change_path,
    changes,
    read_repeatability,
    write_changes,
)
from wsseg.serve.key_table import Key, parse_date

BASE = Measured(
    key=Key("p", date(2024, 1, 1)),
    source="a",
    series_uid="1.2.3",
    modality="CT",
    plane="axial",
    ratio_name="lesion",
    numerator="lesion",
    denominator="image",
    ratio=0.10,
    low=0.08,
    high=0.12,
    voxel_mm3=2.0,
    pixel_mm2=0.5,
    model_sha256="abc",
)


def later(ratio: float | None = 0.15, **fields) -> Measured:
    half = 0.02
    ends = {} if ratio is None else {"low": ratio - half, "high": ratio + half}
    changed = {"key": Key("p", date(2024, 7, 1)), "source": "b", "ratio": ratio, **ends} | fields
    return replace(BASE, **changed)


def test_the_change_is_later_minus_earlier_with_the_widest_interval_of_both():
    (row,) = changes([later(), BASE])
    assert row.change == pytest.approx(0.05)
    assert row.relative_change == pytest.approx(0.5)
    assert row.change_low == pytest.approx(0.01)
    assert row.change_high == pytest.approx(0.09)
    assert (row.earlier_date, row.later_date, row.days) == ("2024-01-01", "2024-07-01", 182)
    assert row.verdict == "CHANGED"  # the interval does not hold 0


def test_an_interval_that_holds_0_is_no_change():
    (row,) = changes([BASE, later(0.12)])
    assert row.verdict == "STABLE"


def test_the_repeatability_coefficient_decides_where_it_is_known():
    for limit, verdict in ((0.04, "CHANGED"), (0.06, "STABLE")):
        (row,) = changes([BASE, later()], limit)
        assert (row.verdict, row.repeatability) == (verdict, limit)
    (row,) = changes([BASE, later()], {"another": 0.01})
    assert row.repeatability is None


def test_without_intervals_and_coefficient_there_is_no_verdict():
    (row,) = changes([replace(BASE, low=None, high=None), later()])
    assert row.verdict == ""
    assert row.change == pytest.approx(0.05)
    assert row.reason == "no repeatability coefficient and no intervals"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model_sha256": "def"}, "another model: abc, then def"),
        ({"modality": "MR"}, "another modality: CT, then MR"),
        ({"plane": "coronal"}, "another plane: axial, then coronal"),
        ({"voxel_mm3": 2.1}, "another spacing: voxels or pixels of 2, then 2.1"),
        ({"pixel_mm2": 1.0}, "another spacing: pixels of 0.5 mm2, then 1 mm2"),
        ({"voxel_mm3": None}, "the pixel size of one of the two is unknown"),
        ({"denominator": "body"}, "another denominator: image, then body"),
        ({"ratio": None}, "one of the two has no ratio"),
    ],
)
def test_what_was_measured_otherwise_is_not_comparable(fields, reason):
    (row,) = changes([BASE, later(**fields)], 0.01)
    assert (row.verdict, row.reason, row.change) == ("NOT_COMPARABLE", reason, None)


def test_spacing_that_differs_by_rounding_is_the_same():
    (row,) = changes([BASE, later(voxel_mm3=2.01)], 0.01)
    assert row.verdict == "CHANGED"


def test_examinations_are_compared_in_the_order_of_their_dates():
    years = [replace(BASE, key=Key("p", date(year, 1, 1)), ratio=year / 1e4) for year in (3, 1, 2)]
    found = [(row.earlier_ratio, row.later_ratio) for row in changes(years, 1.0)]
    assert found == [(1e-4, 2e-4), (2e-4, 3e-4)]


def test_patients_and_ratios_are_kept_apart():
    other = replace(later(0.2), key=Key("q", date(2024, 7, 1)))
    of_another = later(0.3, ratio_name="cyst")
    assert list(changes([BASE, other, of_another])) == []


def test_several_scans_of_a_kind_at_one_examination_are_not_comparable():
    twice = [later(), later(0.3, source="c", series_uid="1.2.9")]
    found = list(changes([BASE, *twice], 0.01))
    assert [row.verdict for row in found] == ["NOT_COMPARABLE"] * 2
    assert found[0].reason.startswith("1 earlier and 2 later scans of this kind")


def test_a_scan_of_another_kind_beside_does_not_disturb():
    scout = replace(later(0.9), plane="coronal", source="scout")
    (row,) = changes([BASE, later(), scout], 0.01)
    assert (row.later_source, row.verdict) == ("b", "CHANGED")


def test_an_examination_of_another_kind_between_two_does_not_part_them():
    between = later(key=Key("p", date(2024, 3, 1)), modality="MR", source="m")
    rows_ = list(changes([BASE, between, later()]))
    found = [(row.earlier_source, row.later_source, row.verdict) for row in rows_]
    assert found == [("a", "m", "NOT_COMPARABLE"), ("a", "b", "CHANGED")]


def test_the_percentile_is_among_the_latest_ratios_of_enough_others():
    others = [
        replace(BASE, key=Key(f"q{n}", date(2024, 1, 1)), ratio=0.01 * n)
        for n in range(1, LEAST_COHORT + 1)
    ]
    (row,) = changes([BASE, later(), *others], 0.01)
    # 14 are lower than 0.15, and one is equal.
    assert row.percentile == pytest.approx(100 * 14.5 / 20)
    assert row.cohort == LEAST_COHORT
    (row,) = changes([BASE, later(), *others[1:]], 0.01)
    assert (row.percentile, row.cohort) == (None, LEAST_COHORT - 1)


def test_the_cohort_was_measured_by_the_same_model_and_need_not_be_scanned_last_in_that_modality():
    others = [
        replace(BASE, key=Key(f"q{n}", date(2024, 1, 1)), ratio=0.2) for n in range(LEAST_COHORT)
    ]
    mr = [replace(one, key=Key(one.key.patient, date(2024, 2, 1)), modality="MR") for one in others]
    rows = list(changes([BASE, later(), *others, *mr], 0.01))
    row = next(row for row in rows if row.patient_key == "p")
    assert (row.percentile, row.cohort) == (0.0, LEAST_COHORT)
    of_another = [replace(one, model_sha256="def") for one in others]
    (row,) = changes([BASE, later(), *of_another], 0.01)
    assert (row.percentile, row.cohort) == (None, 0)


@pytest.mark.parametrize(
    "value", ["2024-02-29", "20240229", "2024-02-29 10:11:12", "29.2.2024", "29.02.2024"]
)
def test_dates_by_iso_with_dots_and_as_dicom_writes_them_are_read(value):
    assert parse_date(value) == date(2024, 2, 29)


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("03/04/2025", "00/00/0000"),
        ("3.4.25", "0.0.00"),
        ("2023-02-29", "0000-00-00"),
        ("29.02.2023", "00.00.0000"),
        ("Müller^Eva", "xxxxxx^xxx"),
    ],
)
def test_dates_that_can_be_read_in_two_ways_or_none_are_refused_without_quoting_them(value, form):
    with pytest.raises(ValueError, match="write dates as 2024-02-29") as caught:
        parse_date(value)
    assert f"of the form {form} " in str(caught.value)
    assert value not in str(caught.value)


def series_of(folder: Path, area: int, day: str, series: str, patient: str = "P1") -> Path:
    for number in range(2):
        pixels = np.zeros((16, 16), np.int16)
        pixels[2:4, 2 : 2 + area // 2] = 150
        _write_dicom(
            folder / f"{number}.dcm",
            pixels,
            ImagePositionPatient=[0.0, 0.0, 2.0 * number],
            PatientID=patient,
            StudyDate=day,
            SeriesInstanceUID=series,
            StudyInstanceUID=f"{series}.1",
        )
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def test_a_run_compares_its_patients_with_those_of_earlier_reports(model, tmp_path):
    first = series_of(tmp_path / "one", 8, "20230101", "1.2.3.1")
    second = series_of(tmp_path / "two", 16, "20240101", "1.2.3.2")
    salt = tmp_path / "salt"
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    run(model, old, first, identify=tmp_path / "old.keys.csv", salt=salt)
    run(
        model,
        new,
        second,
        identify=tmp_path / "new.keys.csv",
        salt=salt,
        previous=(old,),
        keys=(tmp_path / "old.keys.csv",),
        repeatability="0.01",
    )
    row = next(row for row in rows(change_path(new)) if row["numerator"] == "bright")
    assert float(row["change"]) == pytest.approx(8 / 256)
    assert float(row["relative_change"]) == pytest.approx(1.0)
    assert (row["verdict"], row["days"]) == ("CHANGED", "365")
    assert "P1" not in change_path(new).read_text()


def test_thick_slices_of_small_pixels_are_not_compared_with_thin_ones_of_large_pixels(
    model, tmp_path
):
    salt, reports, keys = tmp_path / "salt", [], []
    for year, spacing, distance in ((2023, 0.5, 4.0), (2024, 1.0, 1.0)):
        scans = series_of(tmp_path / str(year), 8, f"{year}0101", f"1.2.3.{year}")
        for path in scans.iterdir():
            changed = dcmread(path)
            changed.PixelSpacing = [spacing, spacing]
            changed.ImagePositionPatient = [0.0, 0.0, distance * int(path.stem)]
            changed.save_as(path)
        reports.append(tmp_path / f"{year}.csv")
        keys.append(tmp_path / f"{year}.keys.csv")
        run(model, reports[-1], scans, identify=keys[-1], salt=salt)
    write_changes(reports, keys, tmp_path / "changes.csv", 0.5)
    found = {(row["verdict"], row["reason"]) for row in rows(tmp_path / "changes.csv")}
    reason = "another spacing: pixels of 0.25 mm2, then 1 mm2"
    assert ("NOT_COMPARABLE", reason) in found
    assert "STABLE" not in {verdict for verdict, _ in found}


def test_pictures_are_compared_by_a_table_that_a_spreadsheet_wrote(model, tmp_path):
    for name, area in (("a", 8), ("b", 16)):
        pixels = np.zeros((16, 16), np.uint8)
        pixels[2:4, 2 : 2 + area // 2] = 150
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "x.png")
        run(model, tmp_path / f"{name}.csv", tmp_path / name)
    keys = tmp_path / "keys.csv"
    lines = ["report;source;key;date", "a.csv;x.png;1;2024-01-01", "b.csv;x.png;1;2024-02-01"]
    keys.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    out = tmp_path / "changes.csv"
    found = write_changes([tmp_path / "b.csv", tmp_path / "a.csv"], [keys], out, 0.5)
    assert found.changed == 0
    row = next(row for row in rows(out) if row["numerator"] == "bright")
    assert row["verdict"] == "STABLE"
    assert float(row["change"]) == pytest.approx(8 / 256)


def report_of_volumes(path: Path, volumes: int, ratio: str = "0.25") -> Path:
    """A report of a file of several volumes, as wsseg-infer writes it."""
    header = "source,frame,part,slices,ratio_name,numerator,denominator,denominator_px,volume_ratio"
    rows = [f"x.nii,{n},0,9,lesion,lesion,image,100,{ratio}" for n in range(volumes)]
    path.with_name(f"{path.stem}.series.csv").write_text("\n".join([header, *rows]) + "\n")
    return path


def test_no_volume_of_a_file_of_several_stands_for_the_others(tmp_path):
    reports = [report_of_volumes(tmp_path / f"{name}.csv", 2) for name in ("old", "new")]
    keys = tmp_path / "keys.csv"
    keys.write_text(
        "report,source,key,date\nold.csv,x.nii,1,2024-01-01\nnew.csv,x.nii,1,2025-01-01\n"
    )
    found = write_changes(reports, [keys], tmp_path / "changes.csv", 0.01)
    assert (found.rows, found.not_comparable) == (2, 2)
    assert "2 earlier and 2 later scans" in rows(tmp_path / "changes.csv")[0]["reason"]


def test_a_report_with_a_cell_that_is_no_number_is_refused_by_its_line(tmp_path):
    report = report_of_volumes(tmp_path / "old.csv", 1, ratio="25 %")
    keys = tmp_path / "keys.csv"
    keys.write_text("source,key,date\nx.nii,1,2024-01-01\n")
    with pytest.raises(TableError, match=r"old\.series\.csv, line 2: a cell holds no number"):
        write_changes([report], [keys], tmp_path / "changes.csv")


def test_a_source_with_two_keys_is_refused_by_its_line(tmp_path, model):
    keys = tmp_path / "keys.csv"
    keys.write_text("source,key,date\nx.png,1,2024-01-01\nx.png,2,2024-01-01\n")
    with pytest.raises(TableError, match=r"line 3: source x\.png has two keys"):
        write_changes([tmp_path / "a.csv"], [keys], tmp_path / "out.csv")


def test_reports_that_no_key_fits_are_told(model, tmp_path):
    scans = series_of(tmp_path / "one", 8, "20230101", "1.2.3.1")
    run(model, tmp_path / "a.csv", scans)
    keys = tmp_path / "keys.csv"
    keys.write_text("source,key,date\nnobody.png,1,2024-01-01\n")
    with pytest.raises(WssegError, match=r"no scan of .* has a key"):
        write_changes([tmp_path / "a.csv"], [keys], tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_comparison_that_fails_costs_the_report_nothing(model, tmp_path):
    scans = series_of(tmp_path / "one", 8, "20230101", "1.2.3.1")
    run(model, tmp_path / "a.csv", scans)
    keys = tmp_path / "keys.csv"
    keys.write_text("source,key,date\nnobody.png,1,2024-01-01\n")
    with pytest.raises(SomeFailedError, match="is written, but not what follows it"):
        run(model, tmp_path / "b.csv", scans, previous=(tmp_path / "a.csv",), keys=(keys,))
    assert rows(tmp_path / "b.csv")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"previous": (Path("a.csv"),)}, "compares patients, whom reports do not name"),
        ({"previous": (Path("a.csv"),), "keys": (Path("k.csv"),)}, "does not exist"),
        ({"keys": (Path("k.csv"),)}, "belong to --previous"),
        ({"repeatability": "0.1"}, "belong to --previous"),
    ],
)
def test_options_that_do_not_fit_together_are_told(model, tmp_path, options, told):
    with pytest.raises(WssegError, match=told):
        run(model, tmp_path / "ratios.csv", tmp_path, **options)


def test_a_repeatability_coefficient_is_a_fraction_or_comes_from_an_agreement(tmp_path):
    assert read_repeatability("0.02") == read_repeatability("0,02") == 0.02
    with pytest.raises(WssegError, match="no fraction"):
        read_repeatability("2")
    with pytest.raises(WssegError, match="no number and no file"):
        read_repeatability("nowhere.csv")
    table = tmp_path / "agreement.csv"
    header = "ratio_name,by,group,figure,value\n"
    table.write_text(f"{header}lesion,,,repeatability_measured,0.03\nlesion,,,bias,0.5\n")
    assert read_repeatability(str(table)) == {"lesion": 0.03}
    saved = header.replace(",", ";") + "lesion;;;repeatability_measured;0,03\n"  # by a spreadsheet
    table.write_text(saved)
    assert read_repeatability(str(table)) == {"lesion": 0.03}
    table.write_text(saved.replace("0,03", "much"))
    with pytest.raises(TableError, match="line 2: its value is no coefficient"):
        read_repeatability(str(table))
    table.write_text(f"{header}lesion,,,bias,0.5\n")
    with pytest.raises(WssegError, match="--repeats"):
        read_repeatability(str(table))


def test_a_report_does_not_replace_the_one_that_it_is_compared_with(model, tmp_path):
    report = tmp_path / "ratios.csv"
    report.write_text("kept")
    options = {"previous": (report,), "keys": (tmp_path / "keys.csv",), "overwrite": True}
    with pytest.raises(WssegError, match=r"would replace the input .* another --report"):
        run(model, report, tmp_path, **options)
    assert report.read_text() == "kept"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_key_tables_are_read_in_each_format_in_which_they_are_written(model, tmp_path, suffix):
    scans = series_of(tmp_path / "one", 8, "20230101", "1.2.3.1")
    later = series_of(tmp_path / "two", 16, "20240101", "1.2.3.2")
    old, keys, salt = tmp_path / "old.csv", tmp_path / f"old{suffix}", tmp_path / "salt"
    run(model, old, scans, identify=keys, salt=salt)
    new = tmp_path / "new.csv"
    own = tmp_path / f"new{suffix}"
    run(model, new, later, identify=own, salt=salt, previous=(old,), keys=(keys,))
    assert {row["days"] for row in rows(change_path(new))} == {"365"}


@pytest.mark.parametrize("taken", ["new.csv", "old.series.csv", "keys.csv"])
def test_a_table_of_changes_replaces_nothing_that_it_is_made_from(tmp_path, taken):
    for name in ("new.csv", "new.series.csv", "old.csv", "old.series.csv", "keys.csv"):
        (tmp_path / name).write_text("kept")
    reports = [tmp_path / "new.csv", tmp_path / "old.csv"]
    with pytest.raises(WssegError, match=rf"{taken} would replace the input .* another --out"):
        write_changes(reports, [tmp_path / "keys.csv"], tmp_path / taken)
    assert (tmp_path / taken).read_text() == "kept"


def test_an_earlier_table_of_changes_is_replaced_only_if_asked(model, tmp_path):
    scans = series_of(tmp_path / "one", 8, "20230101", "1.2.3.1")
    old, new, keys = tmp_path / "old.csv", tmp_path / "new.csv", tmp_path / "keys.csv"
    run(model, old, scans, identify=keys, salt=tmp_path / "salt")
    out = change_path(new)
    out.write_text("kept")
    with pytest.raises(WssegError, match=r"is there already: give --overwrite .* another --out"):
        write_changes([old], [keys], out)
    with pytest.raises(WssegError, match=r"is there already: give --overwrite .* --report"):
        run(model, new, scans, previous=(old,), keys=(keys,))
    assert out.read_text() == "kept"
    run(model, new, scans, previous=(old,), keys=(keys,), overwrite=True)
    assert out.read_text() != "kept"


def test_a_table_of_changes_that_cannot_be_written_is_told(model, tmp_path):
    scans = series_of(tmp_path / "one", 8, "20230101", "1.2.3.1")
    report, keys = tmp_path / "old.csv", tmp_path / "keys.csv"
    run(model, report, scans, identify=keys, salt=tmp_path / "salt")
    with full_disk(10), pytest.raises(AllFailedError, match="written: File too large"):
        write_changes([report], [keys], change_path(report))
    assert not change_path(report).exists()
