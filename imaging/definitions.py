"""What a trained model and a served model must agree on: intensities, classes, ratios."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

IMAGE = "image"
FOREGROUND = "foreground"


class Frozen(BaseModel):
    """A closed, immutable record: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def fault_text(fault: Mapping[str, Any]) -> str:
    """What a fault that pydantic found says, without the name of the exception behind it."""
    return str(fault["msg"]).removeprefix("Value error, ")


class Window(Frozen):
    """How raw intensities become 0..1 before the network.

    `fixed`: low..high in the image's own units (HU, grey value) map to 0..1, clipped.
    `image`: each image's mean - 3 sd .. mean + 3 sd map to 0..1, clipped; for modalities without
    units, such as MR. The values low and high are then ignored.
    """

    kind: Literal["fixed", "image"] = "fixed"
    low: float = 0.0
    high: float = 255.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"window low {self.low} must be below high {self.high}")
        return self


class RatioDefinition(Frozen):
    """One area ratio: pixels of class `numerator` over pixels of `denominator`.

    `denominator` is "image" (every pixel of the slice), "foreground" (every pixel that carries any
    class, i.e. is not background) or the name of another class.
    """

    name: str
    numerator: str
    denominator: str = IMAGE


class Range(Frozen):
    """Where the intensities of many images lie, in their own units, see `intensity.range_of`.

    low, high: between these lie the ends (1st and 99th percentile) of all images but the oddest
    twentieth on either side. low_most: above it lie the low ends of the brightest twentieth.
    span: from low to high end of the image in the middle.
    """

    low: float
    low_most: float
    high: float
    span: float


class Seen(Frozen):
    """What the training images were, so that a scan of another kind can be told from them.

    planes, modalities, units, colours: how many training cases there are of each ("axial", "MR",
    "HU", "colour" or "grey"), by what their files say; "" counts those whose files do not say.
    Empty, and None for the intensities, where nobody looked.
    """

    planes: dict[str, int] = Field(default_factory=dict)
    modalities: dict[str, int] = Field(default_factory=dict)
    units: dict[str, int] = Field(default_factory=dict)
    colours: dict[str, int] = Field(default_factory=dict)
    intensities: Range | None = None


class Dependence(Frozen):
    """Whether the masks of a trained network depend on the image; judged on some of its cases.

    ignored: classes whose masks are alike in different images although what is known of the images
    differs: the network cannot be told from one that ignores its input. evidence: by class, the
    figures that this was decided by, see `train.dependence`; a figure that the cases do not give
    is left out. masks_alike: mean IoU of the masks of different images. constant_error: of the
    best constant in place of the ratio. swapped_recall, swapped_iou: of an image's marks and mask
    with the masks of other images.
    """

    cases: int
    ignored: tuple[str, ...] = ()
    evidence: dict[str, dict[str, float]] = Field(default_factory=dict)

    @property
    def warning(self) -> str:
        """What a person must know, in one sentence; "" where the masks depend on the image."""
        if not self.ignored:
            return ""
        names = ", ".join(self.ignored)
        return (
            f"the network hardly looks at the image: its masks of {names} are alike in all of "
            f"{self.cases} images and meet no label better than a constant would; its ratios of "
            f"{names} mean nothing"
        )


def luminance(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Grey value of an RGB image (..., 3), by ITU-R BT.601 weights, in the image's own units."""
    grey: NDArray[np.float32] = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    return grey
