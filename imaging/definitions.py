"""What training and serving must agree on: intensities, classes, ratios, overlaps, colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

IMAGE = "image"
FOREGROUND = "foreground"
SPAN_SD = 3.0
"""Standard deviations that a window of kind `image` reaches to either side of the mean."""


class Frozen(BaseModel):
    """A closed, immutable record: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def fault_text(fault: Mapping[str, Any]) -> str:
    """The message of a fault found by pydantic, without the name of the exception behind it."""
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


Denominator = Literal["image", "foreground"] | int
"""What the pixels of a class are divided by, as in a `RatioDefinition`, but with another class
given by its class index (0-based)."""


def denominator_of(ratio: RatioDefinition, classes: Sequence[str]) -> Denominator:
    """The denominator of a ratio between these classes; "image" for a name that is none of them."""
    if ratio.denominator in classes:
        return classes.index(ratio.denominator)
    return "foreground" if ratio.denominator == FOREGROUND else "image"


@dataclass(frozen=True)
class PixelCounts:
    """How many pixels each class has, and what they can be divided by.

    classes: (..., k), each class by its own mask, also where masks overlap. foreground: (...), the
    pixels of any class, each counted once. image: all pixels of one slice.
    """

    classes: NDArray[np.int64]
    foreground: NDArray[np.int64]
    image: int

    @classmethod
    def of_masks(cls, masks: NDArray[np.bool_] | NDArray[np.uint8]) -> Self:
        """The counts of masks (..., k, row, column), which may overlap; 0 is outside."""
        rows, columns = masks.shape[-2:]
        return cls(
            np.count_nonzero(masks, (-2, -1)),
            np.count_nonzero(masks.any(-3), (-2, -1)),
            rows * columns,
        )

    @classmethod
    def of_labels(cls, labels: NDArray[np.uint8], classes: int) -> Self:
        """The counts of a label map (row, column): 0 is background, `classes` the highest label."""
        counts = np.bincount(labels.ravel(), minlength=classes + 1)
        return cls(counts[1 : classes + 1], counts[1:].sum(), labels.size)

    def of(self, area: Denominator) -> NDArray[np.int64]:
        """The pixels (...) of a class, by its class index, of the foreground or of the image."""
        if area == "image":
            return np.full_like(self.foreground, self.image)
        return self.foreground if area == "foreground" else self.classes[..., area]


def area_ratios(
    counts: PixelCounts,
    denominators: Sequence[Denominator],
    numerators: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Area ratios (..., r); NaN where the denominator has no pixel, for there is no such ratio.

    numerators: the class index of each ratio; without them, each class has one denominator. Arrays
    of ratios hold NaN for what is not known, rows of tables None, see `known`.
    """
    indices = range(len(denominators)) if numerators is None else numerators
    above = np.stack([counts.of(class_index) for class_index in indices], -1)
    return quotient(above, np.stack([counts.of(area) for area in denominators], -1))


def quotient(
    numerator: NDArray[Any] | float, denominator: NDArray[Any] | float
) -> NDArray[np.float64]:
    """Numerator over denominator, as every ratio is taken: NaN where the denominator is 0."""
    return numerator / np.where(np.asarray(denominator) > 0, denominator, np.nan)


def known(ratio: float | NDArray[np.float64]) -> float | None:
    """One ratio as rows of tables hold it: None in place of NaN."""
    return None if np.isnan(ratio) else float(ratio)


def iou(overlap: NDArray[Any], one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.floating]:
    """Intersection over union, 0..1, from pixel counts of any shape; 1 where both masks are empty.

    overlap: pixels in both masks. one, other: pixels of each. Two empty masks agree; a caller to
    whom they say nothing leaves them out.
    """
    union = one + other - overlap
    return np.where(union > 0, overlap / np.maximum(union, 1), 1.0)


def dice(overlap: NDArray[Any], one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.floating]:
    """Dice coefficient, 0..1, from pixel counts as in `iou`; 1 where both masks are empty."""
    total = one + other
    return np.where(total > 0, 2 * overlap / np.maximum(total, 1), 1.0)


def mask_iou(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.floating]:
    """`iou` (...) of two masks (..., row, column) each; 0 is outside of a mask."""
    both = np.logical_and(one, other)
    counts = (np.count_nonzero(mask, (-2, -1)) for mask in (both, one, other))
    return iou(*(np.asarray(count) for count in counts))


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


class Extent(Frozen):
    """The smallest and the largest of the lengths of many images."""

    least: float
    most: float


class Seen(Frozen):
    """What the training images were, so that a scan of another kind is recognised.

    planes, modalities, units, colours: how many training cases there are of each ("axial", "MR",
    "HU", "colour" or "grey"), by their files; "" counts those whose files do not state it. Empty,
    and None for the intensities, where the images were not inspected. pixel_mm: edges of a pixel.
    side_mm, side_px: rows and columns of an image, in mm and in pixels. The lengths in mm are None
    where the file of any image does not state them.
    """

    planes: dict[str, int] = Field(default_factory=dict)
    modalities: dict[str, int] = Field(default_factory=dict)
    units: dict[str, int] = Field(default_factory=dict)
    colours: dict[str, int] = Field(default_factory=dict)
    intensities: Range | None = None
    pixel_mm: Extent | None = None
    side_mm: Extent | None = None
    side_px: Extent | None = None


class Dependence(Frozen):
    """Whether the masks of a trained network depend on the image; tested on some of its cases.

    ignored: classes whose masks are nearly the same in different images although the labels of the
    images differ: the network does not differ from one that ignores its input. evidence: by class,
    the figures that decided this, see `train.image_dependence`; a figure that the cases do not give
    is left out. masks_alike: mean IoU of the masks of different images. constant_error: of the best
    constant in place of the ratio. swapped_recall, swapped_iou: of an image's marks and mask with
    the masks of other images.
    """

    cases: int
    ignored: tuple[str, ...] = ()
    evidence: dict[str, dict[str, float]] = Field(default_factory=dict)

    @property
    def warning(self) -> str:
        """A warning for people, in one sentence; "" where the masks depend on the image."""
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


# Colours that colour-blind readers can distinguish.
# Source: Okabe and Ito, Color Universal Design, 2008.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
CLASS_COLOURS = (ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE)
"""The colours of the classes in order; an eighth class has that of the first again."""
_RGB = np.array([list(bytes.fromhex(colour[1:])) for colour in CLASS_COLOURS], np.uint8)
_PERCENTILES = (1, 99)


def class_colour(class_index: int) -> str:
    """The colour "#RRGGBB" of a class (0-based) in every picture."""
    return CLASS_COLOURS[class_index % len(CLASS_COLOURS)]


def label_colours(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The colours (..., 3), RGB 0..255, of labels (...) from 1 on: label 1 is class 0.

    The background, 0, has no colour: the returned value is arbitrary.
    """
    colours: NDArray[np.uint8] = _RGB[(labels.astype(np.intp) - 1) % len(_RGB)]
    return colours


def grey_values(pixels: NDArray[np.float32], window: Window | None = None) -> NDArray[np.float32]:
    """Intensities of a slice, of any shape, as 0 (black) to 1 (white).

    window: of a network, to show what it sees; without one, the 1st to 99th percentile. Values that
    are not finite count as 0, and a slice of one value is shown as one grey.
    """
    sound = np.where(np.isfinite(pixels), pixels, np.float32(0))
    if window is None:
        low, high = (float(value) for value in np.percentile(sound, _PERCENTILES))
    elif window.kind == "fixed":
        low, high = window.low, window.high
    else:
        middle, reach = float(sound.mean()), SPAN_SD * float(sound.std())
        low, high = middle - reach, middle + reach
    shown: NDArray[np.float32] = np.clip((sound - low) / ((high - low) or 1.0), 0, 1)
    return shown.astype(np.float32)
