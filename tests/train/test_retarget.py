"""What a round of self-training cuts out of the averaged network's maps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.conftest import prepared
from wsseg.imaging import Window
from wsseg.train import self_training as room
from wsseg.train.cases import Box, Region, read_cases
from wsseg.train.config import Augmentation, TrainConfig
from wsseg.train.data.dataset import CaseDataset, TargetStore
from wsseg.train.networks import last_layer
from wsseg.train.run_folder import RunFacts
from wsseg.train.self_training import replace_pseudo_labels
from wsseg.train.targets import agreement
from wsseg.train.trainer import build_preprocess, choose_facts

SIZE = 32
CONFIG = TrainConfig(
    preset="wsseg",
    network="mobilenet_v2",
    size=SIZE,
    epochs=10,
    batch=2,
    accelerator="cpu",
    precision="fp32",
)


@pytest.fixture(scope="module")
def table(make_blobs, tmp_path_factory):
    """Cases to learn from: two of known area, one with a mask, one without any area, three more."""
    known = ["ratio", "ratio,marks", "ratio", "mask,ratio", "marks", "ratio", "ratio", "ratio"]
    return read_cases(make_blobs(tmp_path_factory.mktemp("blobs"), 8, 1, known=known))


@pytest.fixture(scope="module")
def learner(table):
    """A learner whose averaged network's maps are uneven, as if it had learnt something."""
    data, learner = prepared(table, CONFIG)
    network = learner.predictor().network
    with torch.no_grad():
        images = torch.stack([data.train.item(place).image for place in range(len(data.train))])
        logits = network(learner.preprocess.normalise(images)).logits
        weight, bias = last_layer(network).parameters()
        weight.mul_(2 / logits.std())
        bias.copy_((bias - logits.mean()) * 2 / logits.std())
    return learner


@pytest.fixture
def cases(table):
    return _cases(table)


def _cases(table):
    preprocess = build_preprocess(CONFIG, choose_facts(table, CONFIG))
    return CaseDataset(
        table.part("train"), table.classes, (), preprocess, targets=TargetStore("euclidean")
    )


def test_cases_of_known_area_are_cut_at_it_and_no_others(learner, cases):
    assert math.isnan(replace_pseudo_labels(learner, cases))
    # The third case has a mask, the fourth only marks.
    assert cases.targets.pseudo_labels.keys() == {0, 1, 4, 5, 6}
    for place, found in cases.targets.pseudo_labels.items():
        wanted = round(SIZE**2 * cases.areas(place)[0, 0])
        assert found.inside.shape == (1, SIZE, SIZE)
        assert int(found.inside.sum()) == wanted
        assert 0 < found.certainty[0] <= 1
    marks = cases.item(0).marks == 1
    assert cases.targets.pseudo_labels[0].inside[0][marks].all()


def test_ground_of_a_final_target_is_cut_out_for_no_other_class(learner, cases, monkeypatch):
    (masked,) = (place for place in range(len(cases)) if cases.cases[place].mask is not None)
    assert np.array_equal(cases.taken(masked), cases.item(masked).target[0] >= 0.5)
    assert not cases.taken(0).any()
    half = np.arange(SIZE) < SIZE // 2
    monkeypatch.setattr(CaseDataset, "taken", lambda *_: np.broadcast_to(half, (SIZE, SIZE)))
    replace_pseudo_labels(learner, cases)
    assert cases.targets.pseudo_labels
    assert all(not found.inside[0][:, half].any() for found in cases.targets.pseudo_labels.values())


def test_the_surest_pixels_of_the_averaged_network_are_cut(learner, cases):
    plain = replace(
        learner,
        plan=replace(learner.plan, config=_without_mirrors(learner.plan.config)),
    )
    replace_pseudo_labels(plain, cases)
    with torch.no_grad():
        image = learner.preprocess.normalise(cases.item(1).image[None])
        maps = learner.predictor().network(image).logits.sigmoid()[0, 0]
    inside = cases.targets.pseudo_labels[1].inside[0] == 1
    assert maps[inside].min() >= maps[~inside].max()
    assert cases.targets.pseudo_labels[1].certainty[0] == pytest.approx(
        float(maps[inside].mean()), rel=1e-5
    )


def _without_mirrors(config):
    return config.model_copy(update={"augmentation": Augmentation(flip_horizontal=0)})


@pytest.fixture
def mirrored(table, tmp_path):
    """A case and its mirror image."""
    case = table.part("train")[1]
    Image.open(case.image).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "b.png")
    both = (case, replace(case, image=tmp_path / "b.png"))
    preprocess = build_preprocess(CONFIG, choose_facts(table, CONFIG))
    return CaseDataset(both, table.classes, (), preprocess, targets=TargetStore("euclidean"))


def test_a_mirror_image_is_cut_alike_where_training_mirrors_images(learner, mirrored):
    replace_pseudo_labels(learner, mirrored)
    one, two = (mirrored.targets.pseudo_labels[place].inside for place in (0, 1))
    assert agreement(one, two.flip(2)) > 0.98
    config = _without_mirrors(learner.plan.config)
    replace_pseudo_labels(replace(learner, plan=replace(learner.plan, config=config)), mirrored)
    one, two = (mirrored.targets.pseudo_labels[place].inside for place in (0, 1))
    assert agreement(one, two.flip(2)) < 0.98


def test_a_second_round_of_an_unchanged_network_agrees_with_the_first(learner, cases):
    assert math.isnan(replace_pseudo_labels(learner, cases))
    assert replace_pseudo_labels(learner, cases) == 1


def _bare(cases, region):
    """The cases, known by this region alone."""
    bare = [
        replace(case, ratios=(None,), marks=None, mask=None, regions=(region,))
        for case in cases.cases
    ]
    preprocess = build_preprocess(CONFIG, RunFacts(cases_sha256="", window=Window(), channels=1))
    return CaseDataset(bare, cases.classes, (), preprocess, targets=TargetStore("euclidean"))


def test_cuts_that_are_empty_in_both_rounds_have_no_agreement(learner, cases):
    empty = _bare(cases, Region(low=0.0, high=0.1 / SIZE**2))
    assert math.isnan(replace_pseudo_labels(learner, empty))
    assert math.isnan(replace_pseudo_labels(learner, empty))
    assert len(empty.targets.pseudo_labels) == len(cases)
    assert not any(
        bool((found.inside == 1).any()) for found in empty.targets.pseudo_labels.values()
    )


def test_a_cut_stays_in_the_box(learner, cases):
    box = Box(4, 6, 20, 30)
    boxed = _bare(cases, Region(low=0.05, high=0.1, box=box))
    replace_pseudo_labels(learner, boxed)
    assert len(boxed.targets.pseudo_labels) == len(cases)
    for place, found in boxed.targets.pseudo_labels.items():
        rows, columns = np.nonzero(found.inside[0].numpy())
        top, left, bottom, right = (boxed.item(place).region_labels.box[0] * SIZE).tolist()
        assert len(rows) > 0
        assert rows.min() >= math.floor(top)
        assert rows.max() < math.ceil(bottom)
        assert columns.min() >= math.floor(left)
        assert columns.max() < math.ceil(right)


def test_two_processes_cut_a_part_each_and_both_get_all(learner, table, monkeypatch):
    whole = _cases(table)
    replace_pseudo_labels(learner, whole)
    cut_by = {}
    monkeypatch.setattr(room, "world_size", lambda: 2)
    for place in (1, 0):
        # Of the processes, the second is heard first, and its part is what the first is sent.
        def gathered(mine, place=place):
            cut_by[place] = mine
            return [*mine, *cut_by[1]] if place == 0 else mine

        monkeypatch.setattr(room, "gathered", gathered)
        monkeypatch.setattr(room, "rank", lambda place=place: place)
        part = _cases(table)
        replace_pseudo_labels(learner, part)
    indices = [{index for index, _ in cut_by[place]} for place in (0, 1)]
    assert not indices[0] & indices[1]
    assert min(map(len, indices)) >= 2
    assert list(part.targets.pseudo_labels) == sorted(whole.targets.pseudo_labels)
    for place, found in whole.targets.pseudo_labels.items():
        assert agreement(found.inside, part.targets.pseudo_labels[place].inside) > 0.99
