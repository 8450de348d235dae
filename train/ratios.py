"""Which ratio each class is trained on, and the ratio that a full mask shows."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import FOREGROUND, IMAGE, RatioDefinition
from wsseg.imaging.errors import WssegError

Denominator = Literal["image", "foreground"] | int
"""What a class's pixels are divided by: every pixel, the pixels of any class, or those of one
other class, given by its place in the classes (0-based)."""


def class_denominators(
    classes: tuple[str, ...], ratios: tuple[RatioDefinition, ...]
) -> tuple[Denominator, ...]:
    """The denominator of each class's column in the table, in class order.

    A class is trained on the first definition that has it as numerator, and on its share of the
    whole image where there is none. Raises WssegError for a definition that names an unknown class.
    """
    found: dict[str, Denominator] = {}
    for ratio in ratios:
        for name in (ratio.numerator, ratio.denominator):
            if name not in classes and (name == ratio.numerator or name not in (IMAGE, FOREGROUND)):
                raise WssegError(
                    f"ratio {ratio.name} names the class {name}, but the classes are "
                    f"{', '.join(classes)}: correct the ratio or the table's ratio columns"
                )
        found.setdefault(ratio.numerator, _denominator(ratio.denominator, classes))
    return tuple(found.get(name, "image") for name in classes)


def _denominator(name: str, classes: tuple[str, ...]) -> Denominator:
    if name in classes:
        return classes.index(name)
    return "foreground" if name == FOREGROUND else "image"


def mask_ratios(
    labels: NDArray[np.uint8], denominators: tuple[Denominator, ...]
) -> tuple[float | None, ...]:
    """The ratio of each class in a label map (row, column), 0 being background.

    None where the denominator has no pixel, because such a ratio does not exist.
    """
    counts = np.bincount(labels.ravel(), minlength=len(denominators) + 1)
    sizes = {"image": labels.size, "foreground": labels.size - int(counts[0])}
    ratios: list[float | None] = []
    for place, denominator in enumerate(denominators):
        size = sizes[denominator] if isinstance(denominator, str) else int(counts[denominator + 1])
        ratios.append(int(counts[place + 1]) / size if size else None)
    return tuple(ratios)
