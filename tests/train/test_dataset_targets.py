"""What a dataset teaches each pixel: masks, what was grown, and what self-training found."""

import numpy as np
import pytest
import torch
from PIL import Image

from wsseg.imaging import RatioDefinition, Window
from wsseg.train.cases import Box, Case, Region
from wsseg.train.data.batch import collate
from wsseg.train.data.dataset import CaseDataset, TargetStore
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.targets import BLEND, NO_LABEL, PseudoLabel

SIZE = 32
PREPROCESS = Preprocess(Window(), SIZE, 1)


def region() -> np.ndarray:
    """An ellipse of 64 x 48 pixels, off the centre."""
    rows, columns = np.indices((64, 48))
    inside: np.ndarray = ((rows - 24) / 14) ** 2 + ((columns - 26) / 10) ** 2 <= 1
    return inside


@pytest.fixture
def folder(tmp_path):
    rows, columns = np.indices((64, 48))
    core = ((rows - 24) / 7) ** 2 + ((columns - 26) / 5) ** 2 <= 1
    for name, array in (
        ("image", 60 + 120 * region()),
        ("mask", region()),
        ("marks", core),
        ("empty", np.zeros((64, 48))),
    ):
        Image.fromarray(array.astype(np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def dataset(folder, growth="euclidean", **said):
    """One case of one class."""
    case = Case(row=2, image=folder / "image.png", **{"ratios": (None,), **said})
    return CaseDataset([case], ("roi",), (), PREPROCESS, targets=TargetStore(growth))


def shares():
    """Means of 64 x 48 pixels over 32 x 32 cells: two rows by one and a half columns."""
    fine = region().astype(float).repeat(2, axis=1)
    return fine.reshape(SIZE, 2, SIZE, 3).mean((1, 3))


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def test_a_mask_is_the_target_and_sure_everywhere(folder):
    cases = dataset(folder, mask=folder / "mask.png", marks=folder / "marks.png", ratios=(0.5,))
    sample = cases.item(0)
    assert (sample.target_weight == 1).all()
    assert sample.target.mean() == pytest.approx(region().mean(), abs=1 / 500)
    # The share of a cell that the mask covers, so that its border is not rounded.
    torch.testing.assert_close(
        sample.target[0], torch.from_numpy(shares()), atol=1 / 500, rtol=0, check_dtype=False
    )
    assert sample.has_mask


def test_marks_grow_to_the_known_area(folder):
    sample = dataset(folder, ratios=(float(region().mean()),), marks=folder / "marks.png").item(0)
    assert sample.target.mean() == pytest.approx(region().mean(), abs=2e-3)
    assert overlap(sample.target[0] >= 0.5, torch.from_numpy(shares()) >= 0.5) > 0.9
    assert sample.target_weight.max() == 1
    # Its border is doubtful, the far corner is not.
    assert sample.target_weight.min() < 1
    assert sample.target_weight[0, -1, -1] == 1
    assert not sample.has_mask


def test_without_growth_no_target_has_weight_not_even_a_mask(folder):
    for said in (
        {"mask": folder / "mask.png"},
        {"marks": folder / "marks.png", "ratios": (0.2,)},
        {"regions": (Region(present=False),)},
    ):
        sample = dataset(folder, growth=None, **said).item(0)
        assert not sample.target.any()
        assert not sample.target_weight.any()


@pytest.mark.parametrize("said", [{"ratios": (0.2,)}, {"regions": (Region(present=True),)}, {}])
def test_a_case_that_says_nothing_of_any_place_teaches_no_pixel(folder, said):
    assert not dataset(folder, **said).item(0).target_weight.any()


def test_marks_without_an_area_teach_the_marked_pixels_alone(folder):
    sample = dataset(folder, marks=folder / "marks.png").item(0)
    taught = sample.target_weight[0] > 0
    # A cell that the mark covers in part carries that part.
    assert (sample.target[0][taught] > 0).all()
    assert taught[sample.marks == 1].all()
    assert taught.sum() < 2 * (sample.marks == 1).sum()


def test_an_absent_class_is_taught_to_be_nowhere(folder):
    sample = dataset(folder, regions=(Region(present=False),)).item(0)
    assert (sample.target_weight == 1).all()
    assert not sample.target.any()


def test_outside_its_box_a_class_is_background(folder):
    box = Box(10, 16, 39, 37)
    sample = dataset(folder, regions=(Region(box=box),)).item(0)
    outside = torch.ones(SIZE, SIZE, dtype=torch.bool)
    outside[box.top // 2 : -(-box.bottom // 2), box.left * 2 // 3 : -(-box.right * 2 // 3)] = False
    assert (sample.target_weight[0][outside] == 1).all()
    assert not sample.target[0][outside].any()
    # Inside, something grows from the middle of the box.
    assert sample.target[0, 12, 17] == 1
    assert 0.4 < overlap(sample.target[0] >= 0.5, ~outside) < 0.9


def test_only_a_share_of_the_whole_image_tells_how_far_marks_grow(folder):
    of_body = RatioDefinition(name="roi", numerator="roi", denominator="foreground")
    case = Case(row=2, image=folder / "image.png", ratios=(0.2,), marks=folder / "marks.png")
    cases = CaseDataset([case], ("roi",), (of_body,), PREPROCESS, targets=TargetStore("euclidean"))
    assert np.isnan(cases.areas(0)).all()
    assert cases.item(0).target.mean() < 0.1


def test_areas_are_the_ratio_or_its_bounds(folder):
    assert dataset(folder, ratios=(0.2,)).areas(0).tolist() == [[0.2, 0.2]]
    bounds = (Region(low=0.1, high=0.3),)
    assert dataset(folder, regions=bounds).areas(0).tolist() == [[0.1, 0.3]]
    upper = (Region(high=0.3),)
    assert dataset(folder, regions=upper).areas(0).tolist() == [[0.0, 0.3]]
    for said in ({}, {"regions": (Region(low=0.1),)}, {"mask": folder / "mask.png"}):
        assert np.isnan(dataset(folder, **said).areas(0)).all()


def test_a_target_that_is_final_has_no_area_to_be_cut_at(folder):
    marks = {"ratios": (0.2,), "marks": folder / "marks.png"}
    for said, growth, fixed in (
        ({"ratios": (0.2,), "mask": folder / "mask.png"}, "euclidean", True),
        ({"regions": (Region(present=False),)}, "euclidean", True),
        ({"ratios": (0.0,)}, "geodesic", True),
        (marks | {"regions": (Region(mark_kind="eroded"),)}, "euclidean", True),
        (marks | {"regions": (Region(mark_kind="eroded"),)}, "geodesic", False),
        (marks | {"regions": (Region(mark_kind="disc"),)}, "euclidean", False),
        ({"ratios": (0.2,)}, "euclidean", False),
    ):
        cases = dataset(folder, growth=growth, **said)
        assert cases.item(0).fixed.tolist() == [fixed]
        assert np.isnan(cases.areas(0)).all() == fixed


@pytest.mark.parametrize(
    ("said", "located"),
    [
        ({"ratios": (0.2,), "regions": (Region(present=True, centroid=(3.0, 4.0)),)}, False),
        ({"points": ((1, 2, 1),)}, True),
        ({"regions": (Region(box=Box(0, 0, 2, 2)),)}, True),
        ({"marks": "marks.png"}, True),
        ({"mask": "mask.png"}, True),
    ],
)
def test_a_case_is_located_by_marks_points_a_box_or_a_mask(folder, said, located):
    files = {name: folder / said[name] for name in ("marks", "mask") if name in said}
    assert dataset(folder, **{**said, **files}).located == ([0] if located else [])


def _cut(inside, certainty):
    return PseudoLabel(torch.as_tensor(inside, dtype=torch.uint8), torch.tensor(certainty))


def test_a_cut_is_blended_into_the_target_and_can_be_taken_back(folder):
    cases = dataset(folder, ratios=(float(region().mean()),), marks=folder / "marks.png")
    first = cases.item(0)
    found = torch.zeros(1, SIZE, SIZE)
    found[:, :4] = 1
    cases.targets.pseudo_labels = {0: _cut(found, [0.25])}
    sample = cases.item(0)
    known = first.target_weight > 0
    expected = BLEND * first.target + (1 - BLEND) * found
    torch.testing.assert_close(sample.target[known], expected[known])
    assert (sample.target_weight[known] == 1).all()
    assert torch.equal(sample.image, first.image)
    cases.targets.pseudo_labels = {}
    assert torch.equal(cases.item(0).target, first.target)
    assert torch.equal(cases.item(0).target_weight, first.target_weight)


def test_a_cut_teaches_a_case_of_which_only_the_area_is_known_by_its_certainty(folder):
    cases = dataset(folder, ratios=(0.125,))
    found = torch.zeros(1, SIZE, SIZE)
    found[:, :4] = 1
    cases.targets.pseudo_labels = {0: _cut(found, [0.25])}
    sample = cases.item(0)
    assert torch.equal(sample.target, found)
    assert (sample.target_weight == 0.25).all()


def test_a_class_without_a_cut_keeps_its_target(folder):
    cases = dataset(folder, marks=folder / "marks.png")
    first = cases.item(0)
    cases.targets.pseudo_labels = {0: _cut(torch.full((1, SIZE, SIZE), NO_LABEL), [0.0])}
    assert torch.equal(cases.item(0).target, first.target)
    assert torch.equal(cases.item(0).target_weight, first.target_weight)


def test_targets_and_weights_are_stacked_with_their_cases(folder):
    kept = dataset(folder, mask=folder / "mask.png")
    bare = dataset(folder)
    batch = collate([bare.item(0), kept.item(0)])
    assert batch.target.shape == batch.target_weight.shape == (2, 1, SIZE, SIZE)
    assert torch.equal(batch.target[1], kept.item(0).target)
    assert batch.target_weight.flatten(1).mean(1).tolist() == [0, 1]
