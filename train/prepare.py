"""From a checked table and settings to data and a network that is ready to learn."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric

from wsseg.imaging.definitions import Window
from wsseg.imaging.errors import WssegError
from wsseg.train.case import Case, CaseTable
from wsseg.train.class_evidence import small_regions
from wsseg.train.config import TrainConfig
from wsseg.train.dataset import CaseDataset
from wsseg.train.evaluate import weakly_labelled
from wsseg.train.front import Front
from wsseg.train.guessing import guess_places
from wsseg.train.learner import Learner, Plan, build_learner
from wsseg.train.loop import Data
from wsseg.train.networks import Network, build_network, set_prior
from wsseg.train.objective import Objective, build_objective
from wsseg.train.planes import mixed_planes
from wsseg.train.pretrained import load_weights
from wsseg.train.ratios import class_denominators
from wsseg.train.seen import look_at, mixed_origins, odd_ones, see, spread, suspects
from wsseg.train.select import choose_rule
from wsseg.train.signals import known_fields
from wsseg.train.stream import steps_per_epoch
from wsseg.train.targets.cases import borders_of
from wsseg.train.targets.kind import Growth, choose_growth
from wsseg.train.window import choose_input

log = logging.getLogger(__name__)

MOST_LOOKED_AT = 512
"""Validation cases, evenly spread, whose range is looked at before the first step."""


def choose_given(table: CaseTable, config: TrainConfig) -> dict[str, Any]:
    """What holds for a whole run besides its settings, as plain values: kept for resuming.

    cases_sha256: of the table. window, channels: of the settings, else chosen from the images.
    seen: what the training images are, see `Seen`.
    growth: how shape-bearing marks become targets, likewise; None if no term learns targets.
    """
    cases = table.part("train")
    window, channels = choose_input(cases, window=config.window, channels=config.channels)
    given = {
        "cases_sha256": table.sha256,
        "window": window.model_dump(mode="json"),
        "channels": channels,
        "seen": see(cases, config.modality).model_dump(mode="json"),
    }
    return {**given, "growth": growth_of(table, config, given)}


def growth_of(table: CaseTable, config: TrainConfig, given: dict[str, Any]) -> Growth | None:
    """How shape-bearing marks are grown: as the settings say, or as the images' borders do."""
    if not config.learns_targets:
        return None
    if config.growth != "auto":
        return config.growth
    cases = table.part("train")
    marked = [place for place, case in enumerate(cases) if case.marks is not None]
    data = CaseDataset(cases, table.classes, config.ratios, build_front(config, given))
    borders = borders_of(data.evidence, marked)
    growth = choose_growth(borders)
    if borders:
        log.info("marks that bear a region's shape grow %s", WAYS[growth])
    return growth


WAYS = {"straight": "in straight lines", "geodesic": "along the edges of the image"}


def build_front(config: TrainConfig, given: dict[str, Any]) -> Front:
    """The front of a run's network, on the CPU."""
    return Front(Window.model_validate(given["window"]), config.size, given["channels"])


def teaching_cases(table: CaseTable, config: TrainConfig, given: dict[str, Any]) -> CaseDataset:
    """The training cases, with the targets that they begin with."""
    front = build_front(config, given)
    cases = table.part("train")
    data = CaseDataset(cases, table.classes, config.ratios, front, growth=given["growth"])
    if data.growth is not None and config.guess:
        data.guesses = guess_places(data)
    return data


def prepare_data(table: CaseTable, config: TrainConfig, given: dict[str, Any]) -> Data:
    """The cases to train on, in memory where they fit, and those to judge by."""
    train, val = table.part("train"), table.part("val")
    front = build_front(config, given)
    data = Data(
        train=teaching_cases(table, config, given),
        val=CaseDataset(val, table.classes, config.ratios, front),
        test=CaseDataset(table.part("test"), table.classes, config.ratios, front),
        denominators=class_denominators(table.classes, config.ratios),
        rule=choose_rule(
            config.select,
            cases=len(val),
            masks=sum(case.mask is not None for case in val),
            weak=weakly_labelled(val),
        ),
    )
    for doubt in small_regions(train, table.classes, data.denominators, config.size):
        log.warning("%s", doubt)
    data.train.fill()
    warn_of_odd(data, front.window)
    for doubt in (*mixed_planes((*train, *val)), *mixed_origins((*train, *val))):
        log.warning("%s", doubt)
    reason = {
        "mask": "the highest mean IoU on validation masks",
        "weak": "the best agreement with validation ratios and marks",
        "last": "the last one",
    }
    log.info(
        "%d training and %d validation cases; epoch kept: %s",
        len(train),
        len(val),
        reason[data.rule],
    )
    return data


def warn_of_odd(data: Data, window: Window) -> None:
    """Say which images lie outside the range of the others, training and validation cases alike.

    All that training keeps in memory; where they do not fit, some of each way of storing values.
    """
    if window.kind == "image":
        return
    train, val = data.train, data.val.cases
    looks = list(train.looks.values()) or look_at(suspects(train.cases))
    looks += look_at(spread(val, MOST_LOOKED_AT))
    for doubt in odd_ones(looks, (*train.cases, *val), window):
        log.warning("%s", doubt)


def prepare_learner(
    fabric: Fabric, data: Data, config: TrainConfig, given: dict[str, Any]
) -> Learner:
    """The network with its first weights, drawn from the run's seed, ready for the first step."""
    train = data.train
    steps = config.epochs * steps_per_epoch(train, config)
    objective = build_objective(
        config, train.classes, config.ratios, steps=steps, prior=mean_ratios(data)
    )
    corrected = config.self_training.rounds > 0
    require_evidence(objective, train.cases, train.classes, corrected=corrected)
    network = first_network(data, config, given["channels"])
    if "ratio" in objective.needs:
        # A run that is not told the ratios must not start from them either.
        set_prior(network, image_shares(data))
    load_weights(network, config.weights, train.classes)
    plan = Plan(config, objective, rows=tuple(case.row for case in train.cases), steps=steps)
    return build_learner(fabric, network, build_front(config, given), plan)


def first_network(data: Data, config: TrainConfig, channels: int) -> Network:
    """Fresh weights by the seed. The caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        return build_network(
            config.network,
            classes=len(data.train.classes),
            channels=channels,
            dropout=config.dropout,
        )


def mean_ratios(data: Data) -> tuple[float, ...]:
    """Mean known ratio per class in training, by its definition; NaN where none is known."""
    means = []
    for place in range(len(data.denominators)):
        ratios = [case.ratios[place] for case in data.train.cases]
        known = [ratio for ratio in ratios if ratio is not None]
        means.append(float(np.mean(known)) if known else float("nan"))
    return tuple(means)


def image_shares(data: Data) -> tuple[float, ...]:
    """The mean ratios of classes that are measured over the image; NaN for the others."""
    means = zip(mean_ratios(data), data.denominators, strict=True)
    return tuple(mean if below == "image" else float("nan") for mean, below in means)


def require_evidence(
    objective: Objective, cases: Sequence[Case], classes: Sequence[str], *, corrected: bool
) -> None:
    """Warn of loss terms that no training case has labels for, and where no term wants any.

    corrected: self-training makes targets of known areas. WssegError if no term is left that learns
    from labels, nor from a teacher, of all classes or of one: nothing would teach it, and it would
    be found anywhere.
    """
    known = {
        name: known_fields(cases, number, corrected=corrected)
        for number, name in enumerate(classes, 1)
    }
    labelled = [term for term in objective.terms if term.part.labels]
    some = frozenset[str]().union(*known.values())
    idle = [term for term in labelled if not term.part.labels & some]
    if not labelled and "soft" not in objective.needs:
        log.warning(
            "no term learns from the labels of the cases: only first weights, or what is common to "
            "all pictures, can say what to segment"
        )
    if labelled and "soft" not in objective.needs:
        for name, fields in known.items():
            if not any(term.part.labels & fields for term in labelled):
                whom = "" if len(idle) == len(labelled) else f" for {name}"
                needs = "; ".join(
                    f"{term.name}: {' or '.join(sorted(term.part.labels))}" for term in labelled
                )
                raise WssegError(
                    f"no training case has what the terms learn from{whom} ({needs}): add a column "
                    "that says it, or choose another preset"
                )
    if idle:
        names = ", ".join(term.name for term in idle)
        log.warning("no training case has labels for the terms: %s", names)
