"""Rounds of self-training: when they happen, what they cut, and what is kept of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric import Fabric
from PIL import Image

from wsseg.imaging.definitions import Window
from wsseg.train import retarget as room
from wsseg.train.case import Box, Region
from wsseg.train.cases import read_cases
from wsseg.train.config import Augmentation, SelfTraining, TrainConfig
from wsseg.train.dataset import CaseDataset
from wsseg.train.networks import last_layer
from wsseg.train.prepare import build_front, choose_given, prepare_data, prepare_learner
from wsseg.train.retarget import SETTLED, Renewals, remove_cuts, retarget
from wsseg.train.schedule import renewals
from wsseg.train.targets.selftrain import NO_CUT, Cut, agreement

SIZE = 32
CONFIG = TrainConfig(
    preset="wsseg",
    network="mobilenet_v2",
    size=SIZE,
    epochs=10,
    batch=2,
    accelerator="cpu",
    precision="fp32",
    self_training=SelfTraining(rounds=3, start=0.3, end=0.7),
)
ROUNDS = [4, 6, 8]


@pytest.fixture(scope="module")
def table(make_blobs, tmp_path_factory):
    """Cases to learn from: two of known area, one with a mask, one without any area, three more."""
    known = ["ratio", "ratio,marks", "ratio", "mask,ratio", "marks", "ratio", "ratio", "ratio"]
    return read_cases(make_blobs(tmp_path_factory.mktemp("blobs"), 8, 1, known=known))


@pytest.fixture(scope="module")
def learner(table):
    """A learner whose averaged network's maps are uneven, as if it had learnt something."""
    learner, data = _prepare(table)
    network = learner.predictor().network
    with torch.no_grad():
        images = torch.stack([data.item(place).image for place in range(len(data))])
        logits = network(learner.front.normalise(images)).logits
        weight, bias = last_layer(network).parameters()
        weight.mul_(2 / logits.std())
        bias.copy_((bias - logits.mean()) * 2 / logits.std())
    return learner


def _prepare(table, config=CONFIG):
    given = choose_given(table, config)
    data = prepare_data(table, config, given)
    learner = prepare_learner(Fabric(accelerator="cpu", devices=1), data, config, given)
    return learner, data.train


@pytest.fixture
def cases(table):
    return _cases(table)


def _cases(table, growth="straight"):
    front = build_front(CONFIG, choose_given(table, CONFIG))
    return CaseDataset(table.part("train"), table.classes, (), front, growth=growth)


def _found(*values):
    """In place of `retarget`: rounds whose agreement is told, without a network."""
    told = iter(values)
    return lambda learner, cases: next(told)


def _due(rounds, first=1):
    return [epoch for epoch in range(first, CONFIG.epochs + 1) if rounds.due(epoch)]


def test_rounds_are_due_at_the_epochs_of_the_schedule(cases, tmp_path):
    assert sorted(renewals(CONFIG.self_training, CONFIG.epochs)) == ROUNDS
    assert _due(Renewals(cases, CONFIG, tmp_path, 1)) == ROUNDS


def test_nothing_is_renewed_where_no_target_is_learnt(table, cases, tmp_path):
    for preset in ("paper", "full"):
        config = CONFIG.model_copy(update={"preset": preset})
        assert not _due(Renewals(cases, config, tmp_path, 1))
    assert not _due(Renewals(_cases(table, growth=None), CONFIG, tmp_path, 1))
    none = CONFIG.model_copy(update={"self_training": SelfTraining(rounds=0)})
    assert not _due(Renewals(cases, none, tmp_path, 1))


@pytest.mark.parametrize(
    ("second", "later"), [(SETTLED - 0.01, [8]), (SETTLED, []), (1.0, []), (math.nan, [8])]
)
def test_rounds_stop_once_two_agree(learner, cases, tmp_path, monkeypatch, second, later):
    monkeypatch.setattr(room, "retarget", _found(math.nan, second))
    rounds = Renewals(cases, CONFIG, tmp_path, 1)
    rounds.renew(learner, 4)
    assert _due(rounds, 5) == [6, 8]
    rounds.renew(learner, 6)
    assert _due(rounds, 7) == later
    # A run that is resumed knows it as well.
    assert _due(Renewals(cases, CONFIG, tmp_path, 7), 7) == later
    # One that trains the sixth epoch again does not know of the round before it.
    assert _due(Renewals(cases, CONFIG, tmp_path, 6), 6) == [6, 8]


def _random_cuts(seed, count, classes, shape):
    random = np.random.default_rng(seed)
    cuts = {}
    for place in random.permutation(3 * count)[:count].tolist():
        inside = random.integers(0, 2, (classes, *shape)).astype(np.uint8)
        inside[random.random(classes) < 0.3] = NO_CUT
        sure = torch.from_numpy(random.random(classes).astype(np.float32))
        cuts[place] = Cut(torch.from_numpy(inside), sure)
    return cuts


def _same(cuts, others):
    assert cuts.keys() == others.keys()
    for place, found in cuts.items():
        assert torch.equal(found.inside, others[place].inside)
        assert torch.equal(found.certainty, others[place].certainty)


@given(
    seed=st.integers(0, 99),
    count=st.integers(0, 4),
    classes=st.integers(1, 3),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_cuts_are_read_back_as_they_were_kept(
    learner, table, tmp_path_factory, seed, count, classes, shape
):
    folder, cuts = tmp_path_factory.mktemp("run"), _random_cuts(seed, count, classes, shape)
    cases, later = _cases(table), _cases(table)
    rounds = Renewals(cases, CONFIG, folder, 1)

    def found(learner, cases):
        cases.cuts = cuts
        return 0.5

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "retarget", found)
        rounds.renew(learner, 4)
    assert [path.name for path in folder.iterdir()] == ["cuts-4.npz"]
    Renewals(later, CONFIG, folder, 5)
    _same(later.cuts, cuts)
    # The fourth epoch, trained again, begins with the targets before it.
    Renewals(later, CONFIG, folder, 4)
    assert later.cuts == {}


def test_the_newest_cuts_before_an_epoch_are_taken_up_again(learner, cases, tmp_path, monkeypatch):
    rounds, kept = Renewals(cases, CONFIG, tmp_path, 1), {}
    for epoch in (4, 6, 10):
        kept[epoch] = _random_cuts(epoch, 2, 1, (4, 4))

        def found(learner, cases, epoch=epoch):
            cases.cuts = kept[epoch]
            return math.nan

        monkeypatch.setattr(room, "retarget", found)
        rounds.renew(learner, epoch)
    for first, newest in ((5, 4), (6, 4), (7, 6), (10, 6), (11, 10)):
        Renewals(cases, CONFIG, tmp_path, first)
        _same(cases.cuts, kept[newest])


def test_a_run_that_learns_no_targets_takes_up_no_cuts(learner, cases, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "retarget", _found(math.nan))
    Renewals(cases, CONFIG, tmp_path, 1).renew(learner, 4)
    cases.cuts = _random_cuts(0, 2, 1, (4, 4))
    Renewals(cases, CONFIG.model_copy(update={"preset": "paper"}), tmp_path, 5)
    assert cases.cuts == {}


def test_nothing_but_the_cuts_is_removed(tmp_path):
    for name in ("cuts-2.npz", "cuts-13.npz", "samples.npz", "run.json"):
        (tmp_path / name).write_text("")
    remove_cuts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"samples.npz", "run.json"}


def test_cases_of_known_area_are_cut_at_it_and_no_others(learner, cases):
    assert math.isnan(retarget(learner, cases))
    # The third case has a mask, the fourth only marks.
    assert cases.cuts.keys() == {0, 1, 4, 5, 6}
    for place, found in cases.cuts.items():
        wanted = round(SIZE**2 * cases.areas(place)[0, 0])
        assert found.inside.shape == (1, SIZE, SIZE)
        assert int(found.inside.sum()) == wanted
        assert 0 < found.certainty[0] <= 1
    marks = cases.item(0).marks == 1
    assert cases.cuts[0].inside[0][marks].all()


def test_the_surest_pixels_of_the_averaged_network_are_cut(learner, cases):
    plain = replace(
        learner,
        plan=replace(learner.plan, config=_without_mirrors(learner.plan.config)),
    )
    retarget(plain, cases)
    with torch.no_grad():
        image = learner.front.normalise(cases.item(1).image[None])
        maps = learner.predictor().network(image).logits.sigmoid()[0, 0]
    inside = cases.cuts[1].inside[0] == 1
    assert maps[inside].min() >= maps[~inside].max()
    assert cases.cuts[1].certainty[0] == pytest.approx(float(maps[inside].mean()), rel=1e-5)


def _without_mirrors(config):
    return config.model_copy(update={"augmentation": Augmentation(flip_horizontal=0)})


@pytest.fixture
def mirrored(table, tmp_path):
    """A case and its mirror image."""
    case = table.part("train")[1]
    Image.open(case.image).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "b.png")
    both = (case, replace(case, image=tmp_path / "b.png"))
    front = build_front(CONFIG, choose_given(table, CONFIG))
    return CaseDataset(both, table.classes, (), front, growth="straight")


def test_a_mirror_image_is_cut_alike_where_training_mirrors_images(learner, mirrored):
    retarget(learner, mirrored)
    one, two = (mirrored.cuts[place].inside for place in (0, 1))
    assert agreement(one, two.flip(2)) > 0.98
    config = _without_mirrors(learner.plan.config)
    retarget(replace(learner, plan=replace(learner.plan, config=config)), mirrored)
    one, two = (mirrored.cuts[place].inside for place in (0, 1))
    assert agreement(one, two.flip(2)) < 0.98


def test_a_second_round_of_an_unchanged_network_agrees_with_the_first(learner, cases):
    assert math.isnan(retarget(learner, cases))
    assert retarget(learner, cases) == 1


def _bare(cases, region):
    """The cases, known by this region alone."""
    bare = [
        replace(case, ratios=(None,), marks=None, mask=None, regions=(region,))
        for case in cases.cases
    ]
    front = build_front(CONFIG, {"window": Window().model_dump(), "channels": 1})
    return CaseDataset(bare, cases.classes, (), front, growth="straight")


def test_cuts_that_are_empty_in_both_rounds_have_no_agreement(learner, cases):
    empty = _bare(cases, Region(low=0.0, high=0.1 / SIZE**2))
    assert math.isnan(retarget(learner, empty))
    assert math.isnan(retarget(learner, empty))
    assert len(empty.cuts) == len(cases)
    assert not any(bool((found.inside == 1).any()) for found in empty.cuts.values())


@pytest.mark.parametrize("region", [Region(present=True), Region(present=False)])
def test_without_anything_to_cut_a_first_round_is_the_last(learner, cases, tmp_path, region):
    nothing = _bare(cases, region)
    rounds = Renewals(nothing, CONFIG, tmp_path, 1)
    rounds.renew(learner, 4)
    assert nothing.cuts == {}
    assert not _due(rounds, 5)
    assert not _due(Renewals(nothing, CONFIG, tmp_path, 5), 5)


def test_a_cut_stays_in_the_box(learner, cases):
    box = Box(4, 6, 20, 30)
    boxed = _bare(cases, Region(low=0.05, high=0.1, box=box))
    retarget(learner, boxed)
    assert len(boxed.cuts) == len(cases)
    for place, found in boxed.cuts.items():
        rows, columns = np.nonzero(found.inside[0].numpy())
        top, left, bottom, right = (boxed.item(place).hints.box[0] * SIZE).tolist()
        assert len(rows) > 0
        assert rows.min() >= math.floor(top)
        assert rows.max() < math.ceil(bottom)
        assert columns.min() >= math.floor(left)
        assert columns.max() < math.ceil(right)


def test_two_processes_cut_a_part_each_and_both_get_all(learner, table, monkeypatch):
    whole = _cases(table)
    retarget(learner, whole)
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
        retarget(learner, part)
    indices = [{index for index, _ in cut_by[place]} for place in (0, 1)]
    assert not indices[0] & indices[1]
    assert min(map(len, indices)) >= 2
    assert list(part.cuts) == sorted(whole.cuts)
    for place, found in whole.cuts.items():
        assert agreement(found.inside, part.cuts[place].inside) > 0.99
