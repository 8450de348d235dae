"""Dealing the cases of a table into folds, whole groups together."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from wsseg.imaging.errors import WssegError
from wsseg.imaging.tables import TableError, TableOptions
from wsseg.train.cases.evidence import unsupervised_classes
from wsseg.train.cases.schema import Case, CaseTable, Split, class_denominators, one_spelling
from wsseg.train.cases.table import doubts_of, read_cases
from wsseg.train.config import TrainConfig


def cases_for(path: Path, config: TrainConfig) -> CaseTable:
    """The checked table of a run with these settings, its splits those of the run's fold.

    Raises as `read_cases` and `fold_of` do.
    """
    table = read_cases(
        path,
        ratios=config.ratios,
        labels=config.labels,
        seed=config.seed,
        unlabelled=config.distill is not None,
        options=TableOptions(config.sheet, config.ignore_columns),
    )
    return table if config.fold is None else fold_of(table, config)


def fold_of(table: CaseTable, config: TrainConfig) -> CaseTable:
    """The table as the fold `config.fold` of `config.folds` sees it.

    Its cases are judged (val), all others but those of test teach, whatever split the table gives
    them. Raises WssegError for fewer groups than folds, TableError for a class that the other folds
    say nothing of.
    """
    folds = deal(table.cases, config.folds or 1, seed=config.seed)
    cases = tuple(
        replace(case, fold=fold, split=_split(case, fold, config.fold))
        for case, fold in zip(table.cases, folds, strict=True)
    )
    faults = unsupervised_classes(cases, table.classes, unlabelled=config.distill is not None)
    told = [replace(fault, message=f"fold {config.fold}: {fault.message}") for fault in faults]
    if told:
        raise TableError(table.path.name, told)
    denominators = class_denominators(table.classes, config.ratios)
    of_splits = set(doubts_of(table.cases, table.classes, denominators))
    doubts = [doubt for doubt in table.doubts if doubt not in of_splits]
    doubts += doubts_of(cases, table.classes, denominators)
    return replace(table, cases=cases, doubts=tuple(doubts))


def deal(cases: Sequence[Case], folds: int, *, seed: int) -> list[int]:
    """The fold of each case, from 1; 0 for cases of test.

    Whole groups, the largest first and equal ones in an order drawn by the seed, go to the fold
    that has the fewest cases so far.
    Raises WssegError for fewer groups than folds.
    """
    groups = one_spelling(cases)
    sizes: dict[tuple[str, str], int] = {}
    for case, group in zip(cases, groups, strict=True):
        if case.split != "test":
            sizes[group] = sizes.get(group, 0) + 1
    names = sorted(sizes)
    if len(names) < folds:
        raise WssegError(
            f"{folds} folds need as many groups of cases, and there are {len(names)}: give fewer "
            "--folds, or name the groups in a column group"
        )
    filled, fold_of_group = [0] * folds, dict[tuple[str, str], int]()
    drawn = np.random.default_rng(seed).permutation(len(names))
    for place in sorted(drawn, key=lambda place: -sizes[names[place]]):
        least = filled.index(min(filled))
        filled[least] += sizes[names[place]]
        fold_of_group[names[place]] = least + 1
    return [
        0 if case.split == "test" else fold_of_group[group]
        for case, group in zip(cases, groups, strict=True)
    ]


def _split(case: Case, fold: int, judged: int | None) -> Split:
    if case.split == "test":
        return "test"
    return "val" if fold == judged else "train"
