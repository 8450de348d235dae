"""What is known of one case, and what of it is taught: the two ends of growing a target."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsseg.train.case import MarkKind
from wsseg.train.targets.guess import Guess


@dataclass(frozen=True)
class Evidence:
    """One case on the grid that its targets are grown on.

    image: 0..1 intensities. marks: as in `Batch.marks`. areas: lower and upper bound of each
    class's share of the image, NaN where unknown, equal where exact, 0 for a class that is not in
    the picture. boxes: per class the pixels that the class may have, None where it has no box.
    located: classes that are marked by more than their extreme points. kinds: how each class's mark
    was made; None where that is to be told from the mark. guesses: per class where it may lie;
    empty or None where something better is known.
    """

    image: NDArray[np.floating]
    marks: NDArray[np.uint8]
    areas: NDArray[np.floating]
    boxes: tuple[NDArray[np.bool_] | None, ...]
    located: tuple[bool, ...]
    kinds: tuple[MarkKind | None, ...]
    guesses: tuple[Guess | None, ...] = ()


@dataclass(frozen=True)
class Target:
    """What pixels are taught: `inside` per class, how surely by `weight`, 0 (not at all) to 1.

    final: classes (k) that a network's own map does not improve, see `kind.choose_growth`. guessed:
    classes (k) whose target is a guess, which a network's map replaces.
    """

    inside: NDArray[np.bool_]
    weight: NDArray[np.floating]
    final: NDArray[np.bool_]
    guessed: NDArray[np.bool_]
