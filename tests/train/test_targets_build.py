import math
from typing import Any

import numpy as np

from wsseg.train.targets import (
    Blob,
    BlobProposal,
    Evidence,
    evidence_of_borders,
    first_target,
    seeds,
)

SIDE = 64


def disc(row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.indices((SIDE, SIDE))
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def evidence(marks: np.ndarray, areas: list[tuple[float, float]], **other: Any) -> Evidence:
    count = len(areas)
    known: dict[str, Any] = {
        "image": np.zeros((SIDE, SIDE), np.float32),
        "boxes": (None,) * count,
        "located": (True,) * count,
        "kinds": (None,) * count,
    }
    return Evidence(marks=marks.astype(np.uint8), areas=np.array(areas), **{**known, **other})


UNKNOWN = (math.nan, math.nan)
REGION = disc(30, 30, 16)
SHARE = float(REGION.mean())


def test_a_mark_that_bears_the_shape_grows_to_the_known_area_and_is_sure_everywhere() -> None:
    known = evidence(disc(30, 30, 5), [(SHARE, SHARE)], kinds=("eroded",))
    target = first_target(known, "euclidean")
    assert target.inside[0].sum() == REGION.sum()
    assert (target.inside[0] & REGION).sum() / (target.inside[0] | REGION).sum() > 0.95
    assert (target.weight == 1).all()


def test_a_disc_grows_to_the_known_area_and_is_doubtful_at_its_border_only() -> None:
    known = evidence(disc(30, 30, 5), [(SHARE, SHARE)], kinds=("disc",))
    target = first_target(known, "euclidean")
    assert target.inside[0].sum() == REGION.sum()
    assert target.weight[0, 30, 30] == 1
    assert target.weight[0, 0, 63] == 1
    assert target.weight[0, 30, 46] < 1


def test_a_mark_without_an_area_teaches_itself_alone() -> None:
    mark = disc(30, 30, 5)
    target = first_target(evidence(mark, [UNKNOWN]), "euclidean")
    assert np.array_equal(target.inside[0], mark)
    assert np.array_equal(target.weight[0] > 0, mark)


def test_background_strokes_are_never_grown_over_and_are_taught_as_outside() -> None:
    marks = disc(30, 30, 4).astype(np.uint8)
    marks[:, 36] = 255
    target = first_target(evidence(marks, [(SHARE, SHARE)]), "euclidean")
    assert not target.inside[0][:, 36].any()
    assert (target.weight[0][:, 36] == 1).all()
    assert target.inside[0].sum() == REGION.sum()


def test_bounds_widen_the_band_of_doubt() -> None:
    mark, how = disc(30, 30, 5), {"kinds": ("eroded",)}
    exact = first_target(evidence(mark, [(SHARE, SHARE)], **how), "euclidean")
    loose = first_target(evidence(mark, [(0.5 * SHARE, 1.5 * SHARE)], **how), "euclidean")
    assert not (exact.weight < 1).any()
    assert (loose.weight < 1).sum() > 0.9 * REGION.sum()


def test_a_class_that_is_not_there_is_taught_to_be_nowhere() -> None:
    target = first_target(evidence(np.zeros((SIDE, SIDE)), [(0.0, 0.0)]), "euclidean")
    assert not target.inside.any()
    assert (target.weight == 1).all()
    assert target.fixed.all()


def test_a_box_keeps_its_class_inside_and_grows_it_from_the_middle() -> None:
    box = np.zeros((SIDE, SIDE), bool)
    box[14:47, 14:47] = True
    known = evidence(np.zeros((SIDE, SIDE)), [UNKNOWN], boxes=(box,), located=(False,))
    target = first_target(known, "euclidean")
    assert not target.inside[0][~box].any()
    assert (target.weight[0][~box] == 1).all()
    assert (target.inside[0] & REGION).sum() / (target.inside[0] | REGION).sum() > 0.75


def test_a_box_that_is_marked_as_something_else_in_its_middle_grows_beside_it() -> None:
    box = np.zeros((SIDE, SIDE), bool)
    box[14:47, 14:47] = True
    marks = disc(30, 30, 8) * 255
    known = evidence(marks, [(0.1, 0.1)], boxes=(box,), located=(False,))
    target = first_target(known, "euclidean")
    assert target.inside[0].any()
    assert not target.inside[0][~box | (marks > 0)].any()
    full = evidence(box * 255, [(0.1, 0.1)], boxes=(box,), located=(False,))
    assert not first_target(full, "euclidean").inside.any()


def test_an_extreme_point_at_the_edge_of_a_box_does_not_keep_the_middle_from_growing() -> None:
    box = np.zeros((SIDE, SIDE), bool)
    box[14:47, 14:47] = True
    marks = np.zeros((SIDE, SIDE))
    marks[[14, 46, 30, 30], [30, 30, 14, 46]] = 1
    known = evidence(marks, [(SHARE, SHARE)], boxes=(box,), located=(False,))
    target = first_target(known, "euclidean")
    assert target.inside[0, 30, 30]
    assert (target.inside[0] & REGION).sum() / (target.inside[0] | REGION).sum() > 0.7


def test_nothing_known_teaches_nothing() -> None:
    target = first_target(evidence(np.zeros((SIDE, SIDE)), [(SHARE, SHARE)]), "euclidean")
    assert not target.weight.any()


def test_a_ratio_smaller_than_the_mark_keeps_the_mark() -> None:
    mark = disc(30, 30, 5)
    target = first_target(evidence(mark, [(0.001, 0.001)]), "euclidean")
    assert np.array_equal(target.inside[0], mark)


def test_classes_with_and_without_marks_live_in_one_picture() -> None:
    target = first_target(evidence(disc(30, 30, 5), [(SHARE, SHARE), (0.1, 0.1)]), "euclidean")
    assert target.inside[0].any()
    assert not target.inside[1].any()
    # The second class has no seed; where the first is marked, it surely is not.
    assert (target.weight[1] > 0).sum() == disc(30, 30, 5).sum()


def test_a_stated_kind_wins_over_the_shape_of_the_mark() -> None:
    random = np.random.default_rng(0)
    image = random.random((SIDE, SIDE)).astype(np.float32)
    mark = disc(30, 30, 5)
    told = first_target(
        evidence(mark, [(SHARE, SHARE)], image=image, kinds=("eroded",)), "euclidean"
    )
    seen = first_target(evidence(mark, [(SHARE, SHARE)], image=image), "euclidean")
    assert (told.inside & REGION).sum() > (seen.inside & REGION).sum()


def test_only_shape_bearing_marks_speak_of_borders() -> None:
    random = np.random.default_rng(0)
    image = random.random((SIDE, SIDE)).astype(np.float32)
    long = np.zeros((SIDE, SIDE), bool)
    long[28:33, 20:40] = True
    round_mark = evidence(disc(30, 30, 5), [(SHARE, SHARE)], image=image)
    assert len(evidence_of_borders(evidence(long, [(SHARE, SHARE)], image=image))) == 1
    assert evidence_of_borders(round_mark) == []


def test_a_long_box_without_a_mark_grows_along_edges_too() -> None:
    rows, columns = np.indices((SIDE, SIDE))
    region = ((rows - 32) / 10) ** 2 + ((columns - 32) / 26) ** 2 <= 1
    box = np.zeros((SIDE, SIDE), bool)
    box[22:43, 6:59] = True
    share = float(region.mean())
    known = evidence(
        np.zeros((SIDE, SIDE)),
        [(share, share)],
        boxes=(box,),
        located=(False,),
        image=region.astype(np.float32),
    )
    grown = first_target(known, "euclidean").inside[0]
    assert (grown & region).sum() / (grown | region).sum() > 0.9


def test_a_marked_class_gets_no_seed_in_the_middle_of_its_box() -> None:
    box = np.zeros((SIDE, SIDE), bool)
    box[12:53, 12:53] = True
    stroke = disc(32, 14, 2)
    known = evidence(stroke, [(0.1, 0.1)], boxes=(box,))
    assert np.array_equal(seeds(known, "euclidean")[0].mark, stroke)


def test_wide_bounds_leave_everything_between_them_in_doubt() -> None:
    known = evidence(disc(30, 30, 3), [(0.01, 0.09)], kinds=("eroded",))
    target = first_target(known, "euclidean")
    between = disc(30, 30, 10.5) & ~disc(30, 30, 4.5)
    assert (target.weight[0][between] < 1).all()


def test_only_a_straight_growth_is_final() -> None:
    mark = disc(30, 30, 5)
    euclidean = first_target(evidence(mark, [(SHARE, SHARE)], kinds=("eroded",)), "euclidean")
    along = first_target(evidence(mark, [(SHARE, SHARE)], kinds=("disc",)), "euclidean")
    assert euclidean.fixed.tolist() == [True]
    assert along.fixed.tolist() == [False]


def proposal(row: float, column: float, radius: float, certainty: float) -> BlobProposal:
    """A guess of this disc."""
    centre = (row + 0.5) / SIDE, (column + 0.5) / SIDE
    return BlobProposal(Blob(*centre, radius / SIDE, radius / SIDE, 0.0, 0.1), certainty)


NOWHERE = np.zeros((SIDE, SIDE))
AREA = (SHARE, SHARE)


def test_a_class_that_nothing_locates_is_taught_its_guess_by_its_certainty() -> None:
    known = evidence(NOWHERE, [AREA, AREA], proposals=(None, proposal(30, 30, 16, 0.25)))
    target = first_target(known, "euclidean")
    assert np.array_equal(target.inside[1], REGION)
    assert (target.weight[1] == 0.25).all()
    assert target.proposed.tolist() == [False, True]
    assert not target.fixed.any()
    # No guess, no lesson.
    assert not target.weight[0].any()


def test_marks_a_box_and_a_tag_are_better_known_than_a_guess() -> None:
    box = np.zeros((SIDE, SIDE), bool)
    box[14:47, 14:47] = True
    better: tuple[dict[str, Any], ...] = (
        {"marks": disc(30, 30, 5), "areas": [AREA]},
        {"marks": NOWHERE, "areas": [AREA], "boxes": (box,), "located": (False,)},
        {"marks": NOWHERE, "areas": [(0.0, 0.0)]},
    )
    for known in better:
        told = first_target(evidence(**known, proposals=(proposal(50, 50, 8, 0.5),)), "euclidean")
        alone = first_target(evidence(**known), "euclidean")
        assert np.array_equal(told.inside, alone.inside)
        assert np.array_equal(told.weight, alone.weight)
        assert told.proposed.tolist() == [False]


def test_a_pixel_that_two_guesses_want_is_taught_to_neither() -> None:
    wanted = disc(30, 24, 10), disc(30, 36, 10)
    proposals = proposal(30, 24, 10, 0.25), proposal(30, 36, 10, 0.75)
    target = first_target(evidence(NOWHERE, [AREA, AREA], proposals=proposals), "euclidean")
    both = wanted[0] & wanted[1]
    assert not target.weight[:, both].any()
    for number, certainty in enumerate((0.25, 0.75)):
        assert (target.weight[number][~both] == certainty).all()
        assert np.array_equal(target.inside[number] & ~both, wanted[number] & ~both)


def test_a_guess_keeps_out_of_what_is_marked_as_something_else() -> None:
    marks = disc(30, 38, 4).astype(np.uint8)
    marks[20] = 255
    proposals = None, proposal(30, 30, 16, 0.5)
    target = first_target(evidence(marks, [UNKNOWN, AREA], proposals=proposals), "euclidean")
    assert np.array_equal(target.inside[1], REGION & (marks == 0))
    assert (target.weight[1] == 0.5).all()
    assert (target.weight[1][marks == 0] == 0.5).all()
    assert np.array_equal(target.inside[0], marks == 1)


def test_a_guess_keeps_out_of_what_another_class_has_grown_to() -> None:
    near, kinds = (None, proposal(30, 46, 16, 0.5)), ("eroded", None)
    known = evidence(disc(30, 30, 5), [AREA, AREA], kinds=kinds, proposals=near)
    target = first_target(known, "euclidean")
    assert target.inside[1].any()
    assert not (target.inside[0] & target.inside[1]).any()
