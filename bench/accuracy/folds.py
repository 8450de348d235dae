"""Which pictures teach, which validate and which are held out; groups always stay together."""

import hashlib
from collections.abc import Sequence
from typing import Literal

from bench.accuracy.datasets import Picture

FOLDS = 5
VALIDATION_SHARE = 0.15

Part = Literal["train", "val", "held-out"]


def parts(pictures: Sequence[Picture], fold: int, *, dealt: bool) -> list[Part]:
    """The part of each picture, in order, when fold `fold` (from 0) of 5 is held out.

    By hash of the group, so that it never depends on the order of the pictures. dealt: groups in
    the order of their hash are dealt out to the folds in turn, for even folds of few groups.
    """
    groups = {picture.group for picture in pictures}
    folds = dealt_folds(groups) if dealt else {group: fold_of(group) for group in groups}
    return [
        "held-out" if folds[picture.group] == fold else _teaching_part(picture.group)
        for picture in pictures
    ]


def fold_of(group: str) -> int:
    """Fold of a group by its hash alone."""
    return _hash(group) % FOLDS


def dealt_folds(groups: set[str]) -> dict[str, int]:
    """Folds that differ by at most one group in size."""
    return {group: place % FOLDS for place, group in enumerate(sorted(groups, key=_hash))}


def _teaching_part(group: str) -> Part:
    share = _hash(f"val {group}") % 1000 / 1000
    return "val" if share < VALIDATION_SHARE else "train"


def _hash(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)
