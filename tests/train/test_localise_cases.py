"""Classes that training cases do not locate are localised by their areas."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsseg.imaging import Window
from wsseg.train.cases import MARKED_BACKGROUND, Case, Region, read_cases
from wsseg.train.config import TrainConfig
from wsseg.train.data.dataset import CaseDataset, TargetStore
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.targets import BlobProposal, localise_cases
from wsseg.train.trainer import choose_facts, teaching_cases

ROWS, COLUMNS = 60, 80
SIZE = 32
COUNT = 24


def disc(row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.indices((ROWS, COLUMNS))
    inside: np.ndarray = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return inside


def places() -> list[tuple[float, float, float]]:
    """Row, column and radius of each case's region."""
    random = np.random.default_rng(0)
    low, high = (18, 18, 6), (42, 62, 14)
    return [tuple(random.uniform(low, high)) for _ in range(COUNT)]


def save(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array.clip(0, 255).astype(np.uint8)).save(path)
    return path


def case_list(folder: Path, marked: Sequence[int] = (), sign: int = -1) -> list[Case]:
    """Cases of dark (or bright) regions of known area, some with a small mark in the middle."""
    random = np.random.default_rng(1)
    cases = []
    for number, place in enumerate(places()):
        region = disc(*place)
        grey = random.normal(120, 20, region.shape) + sign * 70 * region
        mark = disc(*place[:2], 3)
        cases.append(
            Case(
                row=number + 2,
                image=save(folder / f"i{number}.png", grey),
                ratios=(float(region.mean()),),
                marks=save(folder / f"w{number}.png", mark) if number in marked else None,
            )
        )
    return cases


def proposed(data: CaseDataset) -> dict[int, tuple[BlobProposal | None, ...]]:
    return localise_cases(data.cases, data.classes, data.denominators, data.thumbnail)


def dataset(cases: Sequence[Case], *classes: str) -> CaseDataset:
    return CaseDataset(
        cases,
        classes or ("roi",),
        (),
        Preprocess(Window(), SIZE, 1),
        targets=TargetStore("euclidean"),
    )


def others(cases: Sequence[Case]) -> list[Case]:
    """The same pictures, each with the area of another one."""
    order = np.random.default_rng(0).permutation(len(cases))
    return [
        Case(row=case.row, image=case.image, marks=case.marks, ratios=cases[other].ratios)
        for case, other in zip(cases, order, strict=True)
    ]


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize(("sign", "word"), [(-1, "darker"), (1, "brighter")])
def test_cases_that_say_no_place_begin_at_their_regions(
    tmp_path: Path, sign: int, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    marked = (2, 5)
    with caplog.at_level(logging.INFO, "wsseg.train"):
        found = proposed(dataset(case_list(tmp_path, marked, sign)))
    unmarked = [number for number in range(COUNT) if number not in marked]
    assert set(unmarked) <= set(found)
    overlaps = []
    for number in unmarked:
        (proposal,) = found[number]
        assert proposal is not None
        overlaps.append(overlap(proposal.blob.draw((ROWS, COLUMNS)), disc(*places()[number])))
    assert np.mean(overlaps) > 0.8
    assert word in caplog.text
    assert f"{len(unmarked)} cases" in caplog.text


def test_a_guess_is_taught_until_the_network_knows_better(tmp_path: Path) -> None:
    cases = dataset(case_list(tmp_path, marked=(2,)))
    cases.targets.proposals = proposed(cases)
    (proposal,) = cases.targets.proposals[0]
    assert proposal is not None
    taught, marked = cases.item(0), cases.item(2)
    assert taught.proposed.tolist() == [True]
    assert taught.target.mean() == pytest.approx(cases.cases[0].ratios[0], rel=0.1)
    assert taught.target_weight.numpy() == pytest.approx(proposal.certainty, abs=1 / 255)
    # Its area is still what self-training cuts at.
    assert cases.areas(0)[0, 0] == cases.cases[0].ratios[0]
    assert marked.proposed.tolist() == [False]
    assert marked.target_weight.max() == 1


def test_nothing_is_guessed_where_every_case_is_marked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "wsseg.train"):
        assert proposed(dataset(case_list(tmp_path, marked=range(COUNT)))) == {}
    assert not caplog.records


def test_unmarked_cases_without_an_area_ask_for_no_guess(tmp_path: Path) -> None:
    cases = case_list(tmp_path, marked=range(1, COUNT))
    cases[0] = Case(row=2, image=cases[0].image, ratios=(None,))
    assert proposed(dataset(cases)) == {}


def test_a_class_that_nothing_locates_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "wsseg.train"):
        assert proposed(dataset(others(case_list(tmp_path)), "fat")) == {}
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "no case locates fat" in record.getMessage()


def test_marks_in_some_cases_are_warning_enough(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "wsseg.train"):
        assert proposed(dataset(others(case_list(tmp_path, marked=(2, 5))))) == {}
    assert not caplog.records


def test_of_two_classes_the_one_that_is_no_blob_is_not_guessed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cases = case_list(tmp_path)
    both = [
        Case(row=case.row, image=case.image, ratios=(case.ratios[0], other.ratios[0]))
        for case, other in zip(cases, others(cases), strict=True)
    ]
    with caplog.at_level(logging.WARNING, "wsseg.train"):
        found = proposed(dataset(both, "cyst", "fat"))
    assert set(found) == set(range(COUNT))
    assert all(cyst is not None and fat is None for cyst, fat in found.values())
    assert "no case locates fat" in caplog.text
    assert "no case locates cyst" not in caplog.text


def test_an_area_known_by_bounds_is_not_exact_enough(tmp_path: Path) -> None:
    loose = [
        Case(
            row=case.row,
            image=case.image,
            ratios=(None,),
            regions=(Region(low=0.01, high=0.2),),
        )
        for case in case_list(tmp_path)[:4]
    ]
    found = proposed(dataset(case_list(tmp_path)[4:] + loose))
    assert set(found) == set(range(COUNT - 4))


def test_a_class_that_nobody_marks_is_guessed_beside_one_that_everybody_marks(
    tmp_path: Path,
) -> None:
    cases = [
        replace(case, ratios=(None, *case.ratios), regions=(Region(), Region()))
        for case in case_list(tmp_path, marked=range(COUNT))
    ]
    found = proposed(dataset(cases, "marked", "bare"))
    assert len(found) == COUNT
    assert all(first is None and second is not None for first, second in found.values())


def test_strokes_of_background_and_equal_bounds_still_leave_a_place_to_guess(
    tmp_path: Path,
) -> None:
    cases = [
        replace(
            case,
            points=((0, 0, MARKED_BACKGROUND),),
            ratios=(None,),
            regions=(Region(low=case.ratios[0], high=case.ratios[0]),),
        )
        for case in case_list(tmp_path)
    ]
    assert len(proposed(dataset(cases))) == COUNT


def test_no_class_is_called_unlocated_that_masks_or_boxes_locate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cases = others(case_list(tmp_path))
    mask = save(tmp_path / "mask.png", disc(*places()[0]))
    cases[0] = replace(cases[0], mask=mask)
    with caplog.at_level(logging.WARNING):
        assert not proposed(dataset(cases))
    assert not caplog.records


def test_a_class_without_any_area_is_not_spoken_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cases = [replace(case, ratios=(None,)) for case in case_list(tmp_path)]
    with caplog.at_level(logging.INFO):
        assert not proposed(dataset(cases))
    assert not caplog.records


def test_masks_that_lie_beside_the_blobs_take_the_guesses_back(tmp_path: Path) -> None:
    corner = save(tmp_path / "corner.png", disc(5, 5, 4))
    cases = case_list(tmp_path)
    outlined = [replace(case, mask=corner) for case in cases[:6]]
    assert proposed(dataset([*outlined, *cases[6:]])) == {}


def test_guesses_can_be_switched_off(make_blobs: Callable[..., Path], tmp_path: Path) -> None:
    table = read_cases(make_blobs(tmp_path, 30, 1, known=["ratio"] * 30))
    config = TrainConfig(size=SIZE, localise_from_area=False)
    assert not teaching_cases(table, config, choose_facts(table, config)).targets.proposals


def test_a_class_that_nobody_places_and_no_area_can_is_told(tmp_path, caplog):
    cases = [replace(case, ratios=(None,)) for case in case_list(tmp_path)]
    bounded = [replace(case, regions=(Region(high=0.4),)) for case in cases]
    with caplog.at_level(logging.WARNING, "wsseg"):
        assert proposed(dataset(bounded)) == {}
    assert "no case locates roi, and none has its exact ratio" in caplog.text


def test_a_class_that_can_be_guessed_does_not_silence_one_that_cannot(tmp_path, caplog):
    both = [
        replace(case, ratios=(*case.ratios, None), regions=(Region(), Region(high=0.4)))
        for case in case_list(tmp_path)
    ]
    with caplog.at_level(logging.WARNING, "wsseg"):
        proposed(dataset(both, "roi", "edge"))
    told = [r.getMessage() for r in caplog.records if "none has its exact ratio" in r.getMessage()]
    assert len(told) == 1
    assert "no case locates edge" in told[0]
