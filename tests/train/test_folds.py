"""Which rows judge, what is found in them, and cross-validation."""

import csv
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.conftest import CONFIG, quick_runs
from wsseg.imaging import TableError, WssegError
from wsseg.train.cases import Case, deal, fold_of, read_cases
from wsseg.train.cross_validation import summary, train_folds
from wsseg.train.run_folder import read_record
from wsseg.train.trainer import train

pytestmark = pytest.mark.usefixtures("quick")

SHORT = CONFIG.model_copy(update={"epochs": 1})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cases(groups: list[str], test: int = 0) -> list[Case]:
    return [
        Case(row, Path(f"{row}.png"), (0.1,), group=group, split="test" if row < test else "train")
        for row, group in enumerate(groups)
    ]


# --- one run ---


def test_splits_csv_names_the_rows_that_judge(uninterrupted, partly_marked):
    table = read_cases(partly_marked)
    told = rows(uninterrupted.out / "splits.csv")
    assert [(int(row["row"]), row["split"], row["fold"]) for row in told] == [
        (case.row, case.split, "") for case in table.cases
    ]
    assert [row["image"] for row in told] == [case.image.name for case in table.cases]


def test_predictions_csv_has_what_is_known_and_found_at_the_models_threshold(
    uninterrupted, partly_marked
):
    told = rows(uninterrupted.out / "predictions.csv")
    judged = read_cases(partly_marked).part("val")
    assert [int(row["row"]) for row in told] == [case.row for case in judged]
    for row, case in zip(told, judged, strict=True):
        assert case.mask is not None
        mask = np.asarray(Image.open(case.mask))
        assert float(row["known_ratio"]) == pytest.approx(case.ratios[0], rel=1e-5)
        assert float(row["mask_ratio"]) == pytest.approx(mask.mean(), rel=1e-5)
        assert 0 <= float(row["iou"]) <= 1
        assert 0 <= float(row["predicted_ratio"]) <= 1


def test_cases_of_test_are_judged_too_and_taught_never(make_blobs, tmp_path):
    table = make_blobs(tmp_path, 6, 2)
    table.write_text(table.read_text().replace("i0.png,val", "i0.png,test"))
    train(table, tmp_path / "run", SHORT)
    assert [row["split"] for row in rows(tmp_path / "run" / "predictions.csv")] == ["test", "val"]


# --- folds ---


def test_folds_are_even_whole_groups_and_the_same_for_a_seed():
    dealt = cases(["a", "A ", "b", "c", "d", "e", "b", "f", "g"])
    folds = deal(dealt, 3, seed=0)
    assert folds == deal(dealt, 3, seed=0) != deal(dealt, 3, seed=1)
    assert folds[0] == folds[1]
    assert folds[2] == folds[6]
    assert max(map(folds.count, (1, 2, 3))) - min(map(folds.count, (1, 2, 3))) <= 1


def test_cases_of_test_are_in_no_fold():
    assert deal(cases(["t", "a", "b"], test=1), 2, seed=0)[0] == 0


def test_more_folds_than_groups_are_refused():
    with pytest.raises(WssegError, match="3 folds need as many groups of cases, and there are 2"):
        deal(cases(["a", "b", "b"]), 3, seed=0)


def test_a_class_that_a_fold_would_not_be_taught_is_told_before_training(make_blobs, tmp_path):
    make_blobs(tmp_path, 4, 0)
    text = "image,ratio:a,ratio:b,group\n" + "".join(
        f"i{n}.png,0.1,{'0.1' if n == 1 else ''},g{n}\n" for n in range(4)
    )
    (tmp_path / "cases.csv").write_text(text + "i1.png,0.1,0.2,g1\n".replace("i1", "m1"))
    with pytest.raises(TableError, match=r"fold \d: no training case describes b"):
        train_folds(tmp_path / "cases.csv", tmp_path / "out", SHORT.model_copy(update={"folds": 2}))


@pytest.fixture(scope="module")
def crossed(make_blobs: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three folds of seven cases, one of which is of test."""
    folder = tmp_path_factory.mktemp("folds")
    table = make_blobs(folder, 7, 1)
    table.write_text(table.read_text().replace("i0.png,val", "i0.png,test"))
    with quick_runs():
        train_folds(table, folder / "out", SHORT.model_copy(update={"folds": 3}))
    return folder


def test_every_case_is_judged_by_the_run_that_did_not_learn_from_it(crossed: Path):
    told = rows(crossed / "out" / "predictions.csv")
    assert [int(row["row"]) for row in told] == list(range(3, 9))
    for row in told:
        own = crossed / "out" / f"fold-{row['fold']}"
        split = {line["row"]: line["split"] for line in rows(own / "splits.csv")}
        assert split[row["row"]] == "val"
        assert row in rows(own / "predictions.csv")
    assert {row["split"] for row in rows(crossed / "out" / "splits.csv")} == {"test", "val"}
    test = [row for row in rows(crossed / "out" / "splits.csv") if row["split"] == "test"]
    assert [(row["row"], row["fold"]) for row in test] == [("2", "")]


def test_finished_folds_are_left_alone_and_a_lost_one_is_trained_again(crossed: Path, caplog):
    before = {n: read_record(crossed / "out" / f"fold-{n}") for n in (1, 2, 3)}
    stamp = (crossed / "out" / "fold-1" / "weights.safetensors").stat().st_mtime_ns
    for path in (crossed / "out" / "fold-3").rglob("*"):
        if path.is_file():
            path.unlink()
    config = SHORT.model_copy(update={"folds": 3})
    with caplog.at_level(logging.INFO, "wsseg"):
        records = train_folds(crossed / "cases.csv", crossed / "out", config, resume=True)
    assert records == tuple(before.values())
    assert (crossed / "out" / "fold-1" / "weights.safetensors").stat().st_mtime_ns == stamp
    assert "out of fold, roi: ratio off by" in caplog.text


def test_folds_and_a_run_do_not_share_a_folder(crossed: Path, uninterrupted, partly_marked):
    with pytest.raises(WssegError, match="holds the folds of a cross-validation"):
        train(crossed / "cases.csv", crossed / "out", SHORT)
    with pytest.raises(WssegError, match=r"give the folder of one, such as .*fold-1"):
        read_record(crossed / "out")
    with pytest.raises(WssegError, match="already holds a run"):
        train_folds(crossed / "cases.csv", crossed / "out", SHORT.model_copy(update={"folds": 3}))
    with pytest.raises(WssegError, match="holds a run of its own"):
        train_folds(partly_marked, uninterrupted.out, SHORT.model_copy(update={"folds": 3}))


def test_a_fold_doubts_what_its_own_splits_give_reason_to(make_blobs, tmp_path):
    table = make_blobs(tmp_path, 6, 1)
    (tmp_path / "i5.png").write_bytes((tmp_path / "i4.png").read_bytes())
    (tmp_path / "m5.png").write_bytes((tmp_path / "m4.png").read_bytes())
    (tmp_path / "w5.png").write_bytes((tmp_path / "w4.png").read_bytes())
    lines = table.read_text().splitlines()
    lines[6] = lines[5].replace("i4.png", "i5.png")
    table.write_text("\n".join(lines) + "\n")
    read = read_cases(table)
    assert any("in the same split" in doubt for doubt in read.doubts)
    fold = fold_of(read, deal(read.cases, 6, seed=3)[5], 6, seed=3)
    assert any("in another split" in doubt for doubt in fold.doubts)


def test_the_summary_is_of_ratios_and_masks_that_are_known():
    line = {"class_name": "a", "known_ratio": "0.1", "mask_ratio": "", "predicted_ratio": "0.2"}
    lines = [
        {**line, "iou": ""},
        {**line, "known_ratio": "", "mask_ratio": "0.2", "predicted_ratio": "", "iou": "0.5"},
        {**line, "known_ratio": "", "iou": ""},
    ]
    assert summary(lines) == [
        "out of fold, a: ratio off by 0.1500 on average, bias -0.0500, over 2 cases; "
        "IoU 0.5000 over 1"
    ]


def test_folds_under_torchrun_are_refused_with_the_remedy(tmp_path, monkeypatch):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(WssegError, match="once, with --devices"):
        train_folds(
            tmp_path / "cases.csv", tmp_path / "folds", SHORT.model_copy(update={"folds": 2})
        )
    assert not list(tmp_path.iterdir())
