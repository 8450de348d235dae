"""What a network says of held-out images, and what their masks say: all that intervals need."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.accuracy.datasets import Dataset, Picture, label_map
from wsseg.export.graph import DeployGraph
from wsseg.imaging.definitions import PixelCounts, luminance
from wsseg.imaging.reading import read_slice
from wsseg.serve.intervals import Measured, SoftAreas
from wsseg.train.run_folder import TrainedRun

TEMPERATURES = np.geomspace(0.5, 4, 13)
"""Divisors of the logits among which temperature scaling chooses."""
UNTEMPERED = int(abs(TEMPERATURES - 1).argmin())
BINS = 15
REGION = 0.01
"""Least tempered probability of a pixel that counts as the region of a class."""

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Cases:
    """Held-out images of one class, all arrays by image. Areas are fractions of the image.

    group: patient or set of near-duplicates. kind: of image, its name without the number. pixels:
    of the image. true, measured: area ratio of the mask drawn and of the network's. soft: mean
    probability. variance: mean of p (1 - p). scale: of the error, as serving computes it. iou: of
    the two masks.

    The rest has a second axis, the temperature: mean probability, mean of p (1 - p), calibration
    error (mean over pixels of |share of the class - mean probability| of their bin), cross-entropy,
    and area of the region.
    """

    group: NDArray[np.str_]
    kind: NDArray[np.str_]
    pixels: Floats
    true: Floats
    measured: Floats
    soft: Floats
    variance: Floats
    scale: Floats
    iou: Floats
    tempered_soft: Floats
    tempered_variance: Floats
    calibration_error: Floats
    cross_entropy: Floats
    region: Floats

    def __len__(self) -> int:
        return len(self.true)

    def at(self, chosen: NDArray[np.bool_]) -> "Cases":
        """The images where `chosen` is true."""
        return Cases(**{name: value[chosen] for name, value in vars(self).items()})


def measure(
    run: TrainedRun,
    dataset: Dataset,
    pictures: Sequence[Picture],
    change: Callable[[Pixels], Pixels] = lambda pixels: pixels,
) -> Cases:
    """The first class of every picture at its own resolution, by the graph that is exported.

    change: what happens to the raw pixels (row, column, channel), 0..255, before.
    """
    graph = DeployGraph(run.predictor, run.record.thresholds, "fp32")
    rows = [
        _one(graph, change(_raw(run, picture.image)), label_map(dataset, picture) == 1)
        for picture in pictures
    ]
    columns = {name: np.asarray([row[name] for row in rows]) for name in rows[0]}
    return Cases(
        group=np.asarray([picture.group for picture in pictures]),
        kind=np.asarray([picture.image.stem.rpartition("_")[0] for picture in pictures]),
        **columns,
    )


def _raw(run: TrainedRun, path: Path) -> Pixels:
    """Raw pixels (row, column, channel)."""
    pixels = read_slice(path)
    if pixels.ndim == 3 and run.record.channels == 1:
        pixels = luminance(pixels)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], run.record.channels, axis=-1)
    return np.asarray(pixels, np.float32)


@torch.no_grad()
def _one(graph: DeployGraph, raw: Pixels, mask: NDArray[np.bool_]) -> dict[str, float | Floats]:
    """The fields of `Cases`, but group and kind, of one image."""
    tensor = torch.from_numpy(np.ascontiguousarray(raw.transpose(2, 0, 1)))[None]
    found, area, soft, probability, variance = (each[0, 0].numpy() for each in graph(tensor))
    counts = PixelCounts(area.reshape(1, 1), area.reshape(1), mask.size)
    ratio = Measured(0, "image", counts, SoftAreas(soft.reshape(1, 1), variance.reshape(1, 1)))
    logit = np.log(probability.clip(1e-6, 1 - 1e-6))
    logit -= np.log1p(-probability.clip(1e-6, 1 - 1e-6))
    tempered = np.array([_tempered(logit / t, mask) for t in TEMPERATURES]).T
    union = np.count_nonzero(found.astype(bool) | mask)
    return {
        "pixels": float(mask.size),
        "true": float(mask.mean()),
        "measured": float(area) / mask.size,
        "soft": float(soft) / mask.size,
        "variance": float(variance) / mask.size,
        "scale": float(ratio.scale()[0]),
        "iou": np.count_nonzero(found.astype(bool) & mask) / union if union else 1.0,
        "tempered_soft": tempered[0],
        "tempered_variance": tempered[1],
        "calibration_error": tempered[2],
        "cross_entropy": tempered[3],
        "region": tempered[4],
    }


def _tempered(logit: Pixels, mask: NDArray[np.bool_]) -> tuple[float, float, float, float, float]:
    p = 1 / (1 + np.exp(-logit))
    bins = np.minimum((p * BINS).astype(np.intp), BINS - 1).ravel()
    gap = np.bincount(bins, p.ravel(), BINS) - np.bincount(bins, mask.ravel(), BINS)
    entropy = np.logaddexp(0, logit).mean() - logit[mask].sum() / mask.size
    return (
        float(p.mean()),
        float((p * (1 - p)).mean()),
        float(abs(gap).sum() / mask.size),
        float(entropy),
        float((p >= REGION).mean()),
    )
