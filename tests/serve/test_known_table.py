"""known.csv is read as it was meant, or refused with every fault on its own line."""

from pathlib import Path

import pytest

from tests.serve.conftest import make_manifest
from wsseg.imaging import RatioDefinition, TableError, WssegError
from wsseg.imaging.tables import MOST_LINES
from wsseg.serve.known_ratios import read_known

ONE = make_manifest(
    classes=("organ",),
    ratios=(RatioDefinition(name="burden", numerator="organ"),),
    thresholds=(0.5,),
)
TWO = make_manifest(
    ratios=(
        RatioDefinition(name="bright", numerator="bright"),
        RatioDefinition(name="top", numerator="brightest"),
        RatioDefinition(name="share", numerator="brightest", denominator="bright"),
    )
)


def read(folder: Path, text: str, manifest=ONE):
    table = folder / "known.csv"
    table.write_text(text, encoding="utf-8")
    return read_known(table, manifest)


@pytest.mark.parametrize(
    "text",
    [
        "source,ratio\na.png,0.25\n",
        "\ufeffsource;ratio\r\na.png;0.25\r\n",
        "source,ratio:burden\na.png, 0.25\n\n",
        "source,ratio:organ,x_reader,notes\na.png,0.25,Ann,fine\n",
        "ratio_name,source,ratio\nburden,a.png,0.25\nburden,b.png,\n",
        "source,modality,frame,slice,ratio_name,ratio,flags\na.png,CT,,,burden,0.25,PX_ONLY\n",
        "source;ratio\na.png;0,25\n",
        "Source\tRatio: burden\na.png\t25 %\n",
        "sep=;\nsource;ratio_percent\na.png;25\n",
        "source,ratio_percent:organ\na.png,25%\n",
    ],
)
def test_one_ratio_can_be_written_in_several_ways(tmp_path: Path, text: str):
    (row,) = read(tmp_path, text)
    (known,) = row.ratios
    assert (row.source, row.slice, row.frame) == ("a.png", None, None)
    assert (known.ratio_name, known.class_index, known.ratio) == ("burden", 0, 0.25)


def test_slices_frames_and_several_classes_are_read_with_their_lines(tmp_path: Path):
    text = "source,slice,frame,ratio:bright,ratio:top\nv.nii,3,1,0.2,0.1\nw.nii,0,,,0.3\n"
    first, second = read(tmp_path, text, TWO)
    assert (first.line, first.slice, first.frame) == (2, 3, 1)
    assert [(one.class_index, one.ratio) for one in first.ratios] == [(0, 0.2), (1, 0.1)]
    assert (second.line, second.slice, second.frame) == (3, 0, None)
    assert [(one.class_index, one.ratio) for one in second.ratios] == [(1, 0.3)]


def test_the_apostrophe_that_ratios_csv_puts_before_a_formula_is_no_part_of_the_name(tmp_path):
    assert read(tmp_path, "source,ratio\n'=a.png,0.1\n")[0].source == "=a.png"
    assert read(tmp_path, "source,ratio\n'a.png,0.1\n")[0].source == "'a.png"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x_image,ratio\na.png,0.1\n", "line 1: no column named source"),
        ("source,slise,ratio\na.png,1,0.1\n", "unknown column slise: the nearest .* slice"),
        ("source\na.png\n", "line 1: expected a column ratio, or columns ratio:<name>"),
        ("source,ratio,ratio:burden\na.png,0.1,0.1\n", "line 1: expected .* not both"),
        ("source,ratio,ratio\na.png,0.1,0.1\n", "line 1: 2 columns are named ratio"),
        ("source,ratio:lung\na.png,0.1\n", "ratio:lung: lung is no ratio .*: it has burden"),
        (
            "source,ratio\na.png,5.7\nb.png,0.63\n",
            "line 1: ratio: 1 of 2 cells are above 1, the largest 5.7 in line 2: .* ratio_percent",
        ),
        ("source,ratio\na.png,5.7%\nb.png,0.63\n", "1 cells have a percent sign, as in line 2"),
        ("source,ratio\na.png,nan\n", "line 2: ratio: nan is not a number"),
        ("source,ratio,ratio_percent\na.png,0.1,10\n", "line 1: expected .* not both"),
        ("source,ratio\n,0.1\n", "line 2: source: empty"),
        ("source,slice,ratio\na.png,-1,0.1\n", "line 2: slice: found -1"),
        ("source,frame,ratio\na.png,1.5,0.1\n", "line 2: frame: found 1.5"),
        ("source,ratio\na.png,0.1,0.2\n", "line 2: 3 cells where the header has 2"),
        ('source,ratio\n"a.png,0.1\n', "not valid CSV"),
        ("source,ratio\na.png,\n", "line 1: no row has a ratio"),
        ("source,ratio_name,ratio\na.png,lung,0.1\n", "line 2: lung is no ratio of this model"),
    ],
)
def test_a_fault_is_told_with_its_line(tmp_path: Path, text: str, fault: str):
    with pytest.raises(TableError, match=rf"known\.csv, .*{fault}") as error:
        read(tmp_path, text)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("source,ratio\na.png,0.1\n", "which ratio.* ratio_name: it has bright, top, share"),
        ("source,ratio:share\na.png,0.1\n", "the ratio share is over bright, and only one over"),
        ("source,ratio_name,ratio\na.png,share,0.1\n", "line 2: the ratio share is over bright"),
        ("source,ratio:brightest\na.png,0.1\n", "brightest is no ratio of this model"),
    ],
)
def test_a_ratio_must_be_one_that_says_how_many_pixels(tmp_path: Path, text: str, fault: str):
    with pytest.raises(TableError, match=fault):
        read(tmp_path, text, TWO)


def test_all_faults_are_told_at_once(tmp_path: Path):
    with pytest.raises(TableError) as error:
        read(tmp_path, "source,ratio\na.png,200\nb.png,0.5\n,0.5\n")
    assert [line[:9] for line in str(error.value).splitlines()] == [
        "known.csv",
        "  line 2:",
        "  line 4:",
    ]


def test_a_line_break_within_quotes_does_not_shift_the_lines(tmp_path: Path):
    with pytest.raises(TableError, match="line 2: ratio: 200 is more than the whole image"):
        read(tmp_path, 'source,ratio,note\na.png,200,"two\nlines"\n')
    first, second = read(tmp_path, 'source,ratio,note\na.png,0.1,"two\nlines"\nb.png,0.1,\n')
    assert (first.line, second.line) == (2, 4)


def test_a_fault_in_every_row_of_a_long_table_is_cut_short(tmp_path: Path):
    with pytest.raises(TableError, match=f"and {500 - MOST_LINES} more") as error:
        read(tmp_path, "source,ratio\n" + "a.png,200\n" * 500)
    assert len(str(error.value).splitlines()) == MOST_LINES + 2


def test_a_file_that_is_no_table_is_one_clear_error(tmp_path: Path):
    with pytest.raises(WssegError, match="cannot be read"):
        read_known(tmp_path / "nowhere.csv", ONE)
    with pytest.raises(WssegError, match="is empty"):
        read(tmp_path, "")
    (tmp_path / "known.csv").write_bytes(b"source,ratio\n\x81\xfe,0.1\n")
    with pytest.raises(WssegError, match="save the table as CSV UTF-8"):
        read_known(tmp_path / "known.csv", ONE)
