"""What a model measures on one slice and on one scan, with a picture for notebooks."""

import io
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsseg.imaging.definitions import Window, class_colour
from wsseg.imaging.errors import Failure
from wsseg.imaging.scan import Scan
from wsseg.serve.overlay import overlay
from wsseg.serve.report import SeriesRatio, SliceRatio


@dataclass(frozen=True, eq=False)
class SliceResult:
    """One segmented slice of H rows and W columns; a notebook shows its picture and its ratios.

    pixels: float32 (H, W) or (H, W, 3), as they were given. masks: bool (k, H, W), one for each of
    the k classes; they may overlap. areas: the pixels of each class. ratios: the area ratios that
    the model defines, by their names; NaN where the denominator has no pixel. window: how the model
    maps intensities to grey values. intervals: low and high end of each ratio that was calibrated;
    confidence: the probability that its error is below a tenth of it; NaN for an unknown ratio.
    """

    classes: tuple[str, ...]
    areas: dict[str, int]
    ratios: dict[str, float]
    pixels: NDArray[np.float32] = field(repr=False)
    masks: NDArray[np.bool_] = field(repr=False)
    window: Window = field(repr=False)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)

    @property
    def labels(self) -> NDArray[np.uint8]:
        """Label map (H, W): 0 background, 1..k the classes; of classes that overlap, the last."""
        labels = np.zeros(self.masks.shape[1:], np.uint8)
        for label, mask in enumerate(self.masks, start=1):
            labels[mask] = label
        return labels

    def picture(self) -> NDArray[np.uint8]:
        """The slice as the model sees it, regions tinted and outlined: RGB (H, W, 3), 0..255."""
        return overlay(self.pixels, self.labels, self.window)

    def _repr_html_(self) -> str:
        return _html(self.picture(), self.classes, self.ratios, self.intervals)


@dataclass(frozen=True, eq=False)
class ScanResult:
    """One measured scan of n slices; a notebook shows its most filled slice and its ratios.

    source: the scan's first file, relative to the path that was given, as in the column `source`.
    ratios: over all slices, weighted by their thickness where positions are known; NaN where the
    denominator has no pixel. areas: int64 (n, k), pixels of each class on each slice. labels: uint8
    (n, H, W), 0 background, 1..k the classes, in display order like `scan.pixels`. series: one row
    for each ratio, over all slices, as in the table of series. slices: one row for each slice and
    ratio, slices first, as in `ratios.csv`. failures: files of the scan that could not be read.
    """

    source: str
    classes: tuple[str, ...]
    ratios: dict[str, float]
    areas: NDArray[np.int64] = field(repr=False)
    labels: NDArray[np.uint8] = field(repr=False)
    series: tuple[SeriesRatio, ...] = field(repr=False)
    slices: tuple[SliceRatio, ...] = field(repr=False)
    scan: Scan = field(repr=False)
    window: Window = field(repr=False)
    failures: tuple[Failure, ...] = ()

    @property
    def slice_ratios(self) -> dict[str, NDArray[np.float64]]:
        """Each ratio on every slice, (n,); NaN where the denominator has no pixel."""
        return {
            name: np.array([_number(row.ratio) for row in self.slices if row.ratio_name == name])
            for name in self.ratios
        }

    def picture(self, slice_index: int | None = None) -> NDArray[np.uint8]:
        """One slice as in `SliceResult.picture`; by default that on which the classes fill most."""
        if slice_index is None:
            slice_index = int(self.areas.sum(1).argmax())
        return overlay(self.scan.pixels[slice_index], self.labels[slice_index], self.window)

    def _repr_html_(self) -> str:
        return _html(self.picture(), self.classes, self.ratios, {})


def _number(ratio: float | None) -> float:
    return float("nan") if ratio is None else ratio


def _html(
    picture: NDArray[np.uint8],
    classes: tuple[str, ...],
    ratios: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
) -> str:
    """A picture, the colours of the classes, and a table of ratios; all text is escaped."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    png = b64encode(file.getvalue()).decode()
    legend = " ".join(
        f'<span style="color:{class_colour(index)}">&#9632;</span> {escape(name)}'
        for index, name in enumerate(classes)
    )
    rows = ""
    for name, ratio in ratios.items():
        low, high = intervals.get(name, (np.nan, np.nan))
        within = "" if np.isnan(low) else f" ({low:.4f} to {high:.4f})"
        value = "-" if np.isnan(ratio) else f"{ratio:.4f}{within}"
        rows += f"<tr><td>{escape(name)}</td><td>{value}</td></tr>"
    return (
        f'<img alt="segmented slice" src="data:image/png;base64,{png}">'
        f"<div>{legend}</div><table><tr><th>ratio</th><th>value</th></tr>{rows}</table>"
    )
