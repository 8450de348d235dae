"""What a trained network finds in held-out pictures, at their own resolution."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.accuracy.datasets import Dataset, Picture, label_map
from bench.accuracy.results import ImageScore
from bench.accuracy.scores import Counts, count
from wsseg.imaging.definitions import iou, luminance
from wsseg.imaging.reading import read_slice
from wsseg.train.run_folder import TrainedRun

THRESHOLD = 0.5


def measure(run: TrainedRun, dataset: Dataset, pictures: Sequence[Picture]) -> list[Counts]:
    """Pixel counts of every picture at its own resolution."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run.predictor.to(device)
    numbers = np.arange(1, len(dataset.classes) + 1)[:, None, None]
    return [
        count(predict(run, picture.image, device), label_map(dataset, picture) == numbers)
        for picture in pictures
    ]


@torch.no_grad()
def predict(run: TrainedRun, image: Path, device: torch.device) -> NDArray[np.bool_]:
    """The predicted mask (class, row, column) of a picture; classes are independent."""
    pixels = read_slice(image)
    if pixels.ndim == 3 and run.record.channels == 1:
        pixels = luminance(pixels)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], run.record.channels, axis=-1)
    raw = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    probability = run.predictor(raw[None].to(device))[0].cpu().numpy()
    mask: NDArray[np.bool_] = probability >= THRESHOLD
    return mask


def image_scores(pictures: Sequence[Picture], counts: Sequence[Counts]) -> list[ImageScore]:
    """The single images, their groups told apart by numbers."""
    groups = {name: number for number, name in enumerate(sorted({p.group for p in pictures}))}
    return [
        ImageScore(
            picture.number,
            groups[picture.group],
            place + 1,
            float(one.true[place] / one.total),
            float(one.predicted[place] / one.total),
            float(iou(one.both, one.predicted, one.true)[place]),
        )
        for picture, one in zip(pictures, counts, strict=True)
        for place in range(len(one.true))
    ]
