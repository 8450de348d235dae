"""What the settings of all loss terms share: how much a term counts, and when."""

from typing import Annotated

from pydantic import AfterValidator, Field, PositiveFloat, model_validator

from wsseg.imaging.definitions import Frozen

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]


def _ordered(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"{interval[0]} and {interval[1]}: the lower one comes first")
    return interval


Interval = Annotated[tuple[Share, Share], AfterValidator(_ordered)]


class TermSettings(Frozen):
    """How much a term counts, and when; times are fractions of the whole run.

    The weight is 0 before `start`, rises linearly to `weight` over `ramp`, and is 0 from `end` on.
    """

    weight: PositiveFloat = 1.0
    start: Share = 0.0
    ramp: Share = 0.0
    end: Share = 1.0

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> "TermSettings":
        if not self.start < self.end:
            raise ValueError(f"start {self.start} of a term must be before its end {self.end}")
        return self
