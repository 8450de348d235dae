"""What a structured report says: the findings, what measured them, and what they refer to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from pydicom.dataset import Dataset


@dataclass(frozen=True)
class RatioFinding:
    """A ratio, and what it is of: names of classes, or "image" or "foreground" below.

    value: 0..1 over the image; None if unknown. low, high: its interval, confidence: 0..1; None for
    a model without a calibration. mean: mean over the slices; None on one slice.
    """

    numerator: str
    denominator: str
    value: float | None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    mean: float | None = None


@dataclass(frozen=True)
class Finding:
    """What was measured of a class on one slice, or on all of them.

    size: area in mm2 of a slice, volume in mm3 of all; None if unknown. showing: number of slices
    that show the class.
    """

    size: float | None
    ratios: tuple[RatioFinding, ...]
    flags: tuple[str, ...]
    showing: int = 1


@dataclass(frozen=True)
class ClassFindings:
    """What was measured of a class.

    whole: over all slices; None for a scan of one slice. slices: by index in the scan's order, the
    slices that the report lists.
    """

    name: str
    whole: Finding | None
    slices: Mapping[int, Finding]


@dataclass(frozen=True)
class SliceSource:
    """The image that a slice was read from; frame: from 1 in a multi-frame image, else None."""

    sop_class_uid: str
    instance_uid: str
    frame: int | None = None


@dataclass(frozen=True)
class Segments:
    """A segmentation whose segment k is class k, from 1.

    frames: numbers, from 1, by (class index, slice index), of those that it has.
    """

    header: Dataset
    frames: Mapping[tuple[int, int], int]


@dataclass(frozen=True)
class Algorithm:
    """What measured: the model's name, the SHA-256 of the engine file, wsseg's version, and further
    facts as text."""

    model: str
    sha256: str
    version: str
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportIdentity:
    """What distinguishes a report; made from its inputs, so that a rerun replaces it.

    uid: gives the UID of one of its parts, by words that name it. created: date and time of the
    content. complete: whether all slices of the scan were measured.
    """

    uid: Callable[..., str]
    series_number: int
    created: datetime
    complete: bool = True
