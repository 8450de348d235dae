"""What a step computes besides the network's answer, for the terms that ask for it."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.train.conftest import prepared
from wsseg.train.cases import read_cases
from wsseg.train.config import TrainConfig
from wsseg.train.data.batch import Batch, Outputs
from wsseg.train.data.sampler import training_batches
from wsseg.train.learner import draw_view
from wsseg.train.losses import Context, Equivariance, Loss, Objective, Size, Teacher, Term

CONFIG = TrainConfig(
    terms=(Size(),),
    network="mobilenet_v2",
    size=32,
    epochs=1,
    batch=2,
    accelerator="cpu",
    precision="fp32",
    dropout=0,
)


@pytest.fixture(scope="module")
def table(make_blobs, tmp_path_factory):
    return read_cases(make_blobs(tmp_path_factory.mktemp("blobs"), 3, 1))


def _prepare(table, config=CONFIG):
    data, learner = prepared(table, config)
    (batch,) = training_batches(data.train, config, first=1)
    return learner, batch


class Watched(Loss):
    """A loss that reads what it is told to and keeps what it was given."""

    kind: str = "watched"
    read: frozenset[str]
    given: list[Any]

    @property
    def reads(self) -> frozenset[str]:
        return self.read

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Tensor:
        self.given.append(outputs)
        return outputs.logits.mean()


@dataclass
class Watch:
    """What a loss that reads this is given, and what the networks are shown for it."""

    reads: frozenset[str]
    given: list[Outputs] = field(default_factory=list)
    pictures: Counter[str] = field(default_factory=Counter)

    def step(self, learner, batch) -> Outputs:
        """One step with this term alone; counts the pictures that each network was shown."""
        loss = Watched.model_construct(read=self.reads, given=self.given)
        objective = Objective((Term(loss, Context(("image",))),), steps=1)
        for name, network in (("own", learner.network), ("average", learner.average.module)):
            network.register_forward_hook(
                lambda module, inputs, outputs, name=name: self.pictures.update(
                    {name: len(inputs[0])}
                )
            )
        learner = replace(learner, plan=replace(learner.plan, objective=objective))
        learner.module.train()
        learner.step(batch, 0)
        (outputs,) = self.given
        return outputs


@pytest.mark.parametrize("reads", [(), ("moved",), ("teacher",), ("moved", "teacher")])
def test_a_step_computes_what_the_terms_read_and_nothing_else(table, reads):
    watch = Watch(frozenset(reads))
    outputs = watch.step(*_prepare(table))
    assert (outputs.moved is not None) == ("moved" in reads)
    assert (outputs.teacher is not None) == ("teacher" in reads)
    shown = {"own": 4 if "moved" in reads else 2}
    assert watch.pictures == (shown | {"average": 2} if "teacher" in reads else shown)
    for answer in (outputs.logits, outputs.moved, outputs.teacher):
        assert answer is None or answer.shape == (2, 1, 32, 32)
    assert outputs.reconstruction.shape == (2, 1, 32, 32)


def test_the_teacher_is_the_averaged_network_and_is_not_taught(table):
    learner, batch = _prepare(table)
    with torch.no_grad():
        image = learner.preprocess.normalise(batch.image)
        expected = learner.predictor().network(image).logits.sigmoid()
    teacher = Watch(frozenset({"teacher"})).step(learner, batch).teacher
    assert teacher is not None
    assert not teacher.requires_grad
    assert torch.equal(teacher, expected)


def test_the_second_view_is_answered_in_the_frame_of_the_first(table):
    learner, batch = _prepare(table)
    outputs = Watch(frozenset({"moved"})).step(learner, batch)
    assert outputs.moved is not None
    assert outputs.moved.requires_grad
    # Drawn by seed and step.
    view = draw_view(2, np.random.default_rng((CONFIG.seed, 0)))
    network = _prepare(table)[0].network.train()
    both = learner.preprocess.normalise(torch.cat([batch.image, view.apply(batch.image)]))
    here, there = network(both).logits.chunk(2)
    torch.testing.assert_close(outputs.logits, here)
    torch.testing.assert_close(outputs.moved, view.undo(there))


def test_terms_of_consistency_are_part_of_the_sum_and_teach(table):
    config = CONFIG.model_copy(update={"terms": (Equivariance(), Teacher(), Size())})
    learner, batch = _prepare(table, config)
    learner.module.train()
    before = {name: value.clone() for name, value in learner.network.named_parameters()}
    parts = learner.step(batch, 0)
    assert parts["equivariance"] > 0
    assert parts["teacher"] > 0
    assert parts["total"] == pytest.approx(sum(parts.values()) - parts["total"])
    after = dict(learner.network.named_parameters())
    assert not all(torch.equal(before[name], after[name]) for name in before)
