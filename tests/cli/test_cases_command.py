"""`wsseg cases check`: what a table can teach, and a picture of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import call
from wsseg.cli.case_picture import MOST, choose, draw_cases
from wsseg.cli.cases import MOMENTS, carry, readers
from wsseg.train.cases import FIELDS, Case, SupervisionKind
from wsseg.train.config import PRESETS
from wsseg.train.data.batch import Batch
from wsseg.train.losses import LOSSES

SIDE = 24
HEADER = "image,ratio,marks,points,box,present,centroid,spread,extremes,mask,group,split"


def write(folder: Path, *rows: str, header: str = HEADER) -> Path:
    """A table of rows whose pictures, all different, are made as they are named."""
    for number, row in enumerate(rows):
        noise = np.random.default_rng(number).integers(0, 255, (SIDE, SIDE))
        path = folder / row.split(",")[0]
        if not path.exists():
            Image.fromarray(noise.astype(np.uint8)).save(path)
    table = folder / "cases.csv"
    table.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return table


def mixed(folder: Path) -> Path:
    """Nine cases: every signal at least once, and three with a ratio only."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[8:12, 8:14] = 1
    Image.fromarray(labels).save(folder / "mark.png")
    labels[0, :5] = 255
    Image.fromarray(labels).save(folder / "strokes.png")
    extremes = json.dumps([[4, 9], [8, 3], [15, 8], [9, 14]])
    return write(
        folder,
        "a.png,0.1,mark.png,,,,,,,,p1,train",
        "b.png,0.2,,,,,,,,,p2,train",
        "c.png,0.3,,,,,,,,,p3,train",
        "d.png,0.3,,,,,,,,,p4,train",
        'e.png,,,"[[3, 4], [20, 20, 255]]",,,,,,,p5,train',
        'f.png,,strokes.png,,"[7, 7, 13, 15]",1,,,,,p6,train',
        'g.png,,,,,,"[9.5, 11]","[2, 3.5]",,,p7,train',
        f'h.png,,,,,,,,"{extremes}",,p8,train',
        "i.png,,,,,,,,,mark.png,p9,val",
    )


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_every_signal_is_counted_by_split(tmp_path: Path):
    said = lines(call("cases", "check", mixed(tmp_path)))
    for row in (
        "roi ratio 4 0 0",
        "roi present 1 0 0",
        "roi marks 2 0 0",
        "roi points 1 0 0",
        "roi background marks 2 0 0",
        "roi extremes 1 0 0",
        "roi box 1 0 0",
        "roi centroid 1 0 0",
        "roi spread 1 0 0",
        "roi mask 0 1 0",
        "all cases 8 1 0",
    ):
        assert row.split() in said


def test_combinations_of_training_cases_are_told_the_commonest_first(tmp_path: Path):
    said = call("cases", "check", mixed(tmp_path)).split("can teach:")[1].split("What reads")[0]
    rows = [" ".join(words) for words in lines(said)]
    assert rows[2] == "roi ratio only 3"
    assert "roi ratio + marks 1" in rows
    assert "roi present + marks + background marks + box 1" in rows
    assert "roi centroid + spread 1" in rows


def test_classes_are_counted_apart(tmp_path: Path):
    table = write(
        tmp_path,
        'a.png,0.1,,"[0, 0, 5, 5]","[[1, 1, 2]]"',
        "b.png,0.1,0.2,,",
        header="image,ratio:a,ratio:b,box:b,points",
    )
    said = lines(call("cases", "check", table))
    assert ["a", "ratio", "1", "1", "0"] in said
    assert any(row[:2] == ["b", "points"] for row in said)
    assert not any(row[:2] == ["a", "points"] for row in said)


def test_a_faulty_table_ends_with_all_its_faults_and_writes_no_picture(tmp_path: Path):
    table = write(tmp_path, "a.png,800", "b.png,0.1", "b.png,", header="image,ratio")
    said = call("cases", "check", table, "--picture", tmp_path / "sheet.png", code=2)
    assert "cases.csv: 3 faults to correct" in said
    assert [line.split(":")[0].strip() for line in said.splitlines()[1:4]] == [
        "line 2",
        "line 4",
        "line 4",
    ]
    assert not (tmp_path / "sheet.png").exists()


def test_settings_of_a_training_say_how_the_table_is_read(tmp_path: Path):
    table = write(
        tmp_path,
        "a.png,X,0.00001,0.1,g",
        "b.png,Y,0.1,0.2,g",
        header="image,Patient,ratio:a,ratio:b,group",
    )
    (tmp_path / "run.toml").write_text('ignore_columns = ["patient"]\nsize = 64\nseed = 1\n')
    said = call("cases", "check", table, "--config", tmp_path / "run.toml")
    assert "1 training cases have less of a than one of the 64 x 64 cells" in said
    assert "ratio of b: median 0.15, from 0.1 to 0.2" in said
    flagged = call("cases", "check", table, "--ignore-columns", "*", "--size", 512)
    assert "cells" not in flagged
    call("cases", "check", table, code=2)


def test_a_ratio_definition_is_followed(tmp_path: Path):
    table = write(tmp_path, "a.png,1.5,0.2", header="image,ratio:fat,ratio:muscle")
    call("cases", "check", table, code=2)
    call("cases", "check", table, "--ratio", "fat=fat/muscle")


WARNINGS = {
    "copies": (
        ["a.png,0.1,p1,train", "copy.png,0.1,p2,val"],
        "1 image is a copy of images in another split, so the network is evaluated on images that "
        "it was trained on: line 3 copies line 2",
    ),
    "no groups": (["b.png,0.1,,train", "c.png,0.1,,val"], "no case has a group"),
    "nothing to judge by": (
        ["b.png,0.1,p1,train", "c.png,,p2,val"],
        "1 cases of val have nothing to judge by, the first in line 3",
    ),
    "nothing locates": (
        ["b.png,0.1,p1,train", "c.png,0.1,p2,val"],
        "no training case says where roi is",
    ),
}


@pytest.mark.parametrize(("rows", "expected"), WARNINGS.values(), ids=WARNINGS.keys())
def test_what_may_not_be_meant_is_warned_of(tmp_path: Path, rows: list[str], expected: str):
    for name in ("a.png", "copy.png"):
        Image.new("L", (SIDE, SIDE), 100).save(tmp_path / name)
    said = call("cases", "check", write(tmp_path, *rows, header="image,ratio,group,split"))
    assert f"warning: {expected}" in said


def test_a_sound_table_is_not_warned_of(tmp_path: Path):
    table = mixed(tmp_path)
    sound = [line for line in table.read_text().splitlines() if not line.startswith("g.png")]
    table.write_text("\n".join(sound) + "\n", encoding="utf-8")
    assert "warning" not in call("cases", "check", table)


def test_what_the_default_preset_passes_over_is_said_with_the_one_that_reads_it(tmp_path: Path):
    assert (
        "warning: the preset wsseg does not read centroid and spread: --preset moments does"
        in call("cases", "check", mixed(tmp_path))
    )
    assert {"centroid", "spread"} == {
        signal for signal in FIELDS if "wsseg" not in readers(signal)[1] and signal in MOMENTS
    }
    assert all("moments" in readers(signal)[1] for signal in MOMENTS)


def test_the_picture_is_a_png_of_the_cases(tmp_path: Path):
    sheet_path = tmp_path / "new" / "sheet.png"
    said = call("cases", "check", mixed(tmp_path), "--picture", sheet_path)
    assert said.splitlines()[-1] == f"wrote {sheet_path}"
    with Image.open(sheet_path) as sheet:
        assert sheet.format == "PNG"
        assert min(sheet.size) > 400


def test_another_kind_of_picture_is_refused_at_once(tmp_path: Path):
    said = call("cases", "check", tmp_path / "none.csv", "--picture", "sheet.bmp", code=2)
    assert "name it .png" in said


def test_targets_are_laid_over_the_picture(tmp_path: Path):
    Image.new("L", (SIDE, SIDE), 100).save(tmp_path / "a.png")
    carried = carry(Case(row=2, image=tmp_path / "a.png", ratios=(0.1,)), 1)
    cases = [(carried.case, carried.signals)]

    def drawn(target: np.ndarray) -> np.ndarray:
        draw_cases(cases, ("roi",), tmp_path / "sheet.png", lambda case: target)
        return np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))

    # Nothing is taught, or only that there is nothing: nothing is to be seen of it.
    bare = drawn(np.full((1, 2, 2), np.nan, np.float32))
    assert np.array_equal(bare, drawn(np.zeros((1, 1, 1), np.float32)))
    whole, quarter = (
        np.argwhere((drawn(np.array([target], np.float32)) != bare).any(2))
        for target in ([[1]], [[0, 1], [np.nan, 0]])
    )
    (top, left), (bottom, right) = whole.min(0), whole.max(0)
    corners = np.array([[top, (left + right) / 2], [(top + bottom) / 2, right]])
    assert np.abs([quarter.min(0), quarter.max(0)] - corners).max() <= 2


def test_the_picture_shows_every_combination_of_signals_first():
    few, many = (frozenset[SupervisionKind]({"ratio"}),), (frozenset[SupervisionKind]({"marks"}),)
    cases = [(Case(row=row, image=Path("a.png"), ratios=(0.1,)), many) for row in range(2, 30)]
    cases[20] = (cases[20][0], few)
    chosen = choose(cases)
    assert len(chosen) == MOST
    assert [case.row for case, _ in chosen] == [*range(2, 13), 22]


def test_what_a_signal_fills_is_a_label_of_the_batch():
    assert frozenset().union(*FIELDS.values()) <= set(Batch.__annotations__)


def test_every_term_that_needs_labels_is_taught_by_some_signal():
    known = {kind for signal in FIELDS for kind in readers(signal)[0]}
    for loss in (kind() for kind in LOSSES):
        assert not loss.labels or loss.kind in known


@pytest.mark.parametrize(
    ("signal", "term", "preset"),
    [
        ("ratio", "size", "paper"),
        ("bounds", "size_bounds", "size-bounds"),
        ("present", "tag_suppression", "tags"),
        ("points", "partial_cross_entropy", "scribbles"),
        ("extremes", "box_tightness", "boxes"),
        ("centroid", "centroid", "moments"),
        ("mask", "dice", "full"),
    ],
)
def test_a_signal_is_read_by_its_terms_and_presets(signal: SupervisionKind, term: str, preset: str):
    terms, presets = readers(signal)
    assert term in terms
    assert preset in presets
    assert set(presets) <= set(PRESETS)


def test_marked_background_teaches_no_term_that_reads_classes_only():
    assert "weak_mark" not in readers("background marks")[0]


def test_labels_of_the_settings_count_in_the_check_and_in_simulated_marks(tmp_path):
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[8:12, 8:14], labels[2:4] = 3, 7
    Image.fromarray(labels).save(tmp_path / "mask.png")
    table = write(tmp_path, "a.png,0.04,mask.png", header="image,ratio:cyst,mask")
    settings = tmp_path / "run.toml"
    settings.write_text("[labels]\ncyst = [3]\n")
    assert "[labels]" in call("cases", "check", table, code=2)
    shown = " ".join(call("cases", "check", table, "--config", settings).split())
    assert "label numbers 7 stand for no class" in shown
    call("marks", table, "--out", tmp_path / "weak", "--config", settings)
    with Image.open(tmp_path / "weak" / "masks" / "0001.png") as written:
        assert np.array_equal(np.asarray(written), labels == 3)
    call("cases", "check", tmp_path / "weak" / "cases.csv")
