"""Which ratio each class is trained on."""

from wsseg.imaging.definitions import (
    FOREGROUND,
    IMAGE,
    RatioDefinition,
    denominator_of,
)
from wsseg.imaging.definitions import (
    Denominator as Denominator,
)
from wsseg.imaging.errors import WssegError


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
        found.setdefault(ratio.numerator, denominator_of(ratio, classes))
    return tuple(found.get(name, "image") for name in classes)
