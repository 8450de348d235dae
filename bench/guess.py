"""How well blobs of the known area guess where a class is: python -m bench.guess DATA

DATA holds busi/, abdomen_ct/ and cardiac_mr/ as `bench.accuracy` reads them. Prints for every class
of every data set which blobs are taken, if any, and their mean IoU with the true masks, all and
weighted by certainty.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.accuracy.datasets import DATASETS, Dataset, label_map
from wsseg.imaging.definitions import mask_iou
from wsseg.train.targets import BlobProposal, Proposals, localise_class, on_blob_grid

SHOWN = ("busi", "kidneys", "cardiac")
HALF = 0.5
WORDS = {-1: "dark", 1: "bright"}


class Found(NamedTuple):
    """Pictures and the coverage (class, row, column) of their classes, on the grid of blobs."""

    images: list[NDArray[np.float32]]
    masks: list[NDArray[np.float32]]


def read(data: Path, dataset: Dataset) -> Found:
    """All pictures of a data set, made small."""
    found = Found([], [])
    numbers = range(1, len(dataset.classes) + 1)
    for picture in dataset.read(data / dataset.folder):
        labels = label_map(dataset, picture)
        with Image.open(picture.image) as image:
            found.images.append(
                on_blob_grid(np.asarray(image.convert("L"), np.float32) / np.float32(255))
            )
        found.masks.append(
            np.stack([on_blob_grid((labels == number).astype(np.float32)) for number in numbers])
        )
    return found


def overlap(proposed: BlobProposal, coverage: NDArray[np.float32]) -> float:
    """IoU of a guessed blob and a mask, on the small grid."""
    blob, mask = proposed.blob.draw(coverage.shape), coverage >= HALF
    return float(mask_iou(blob, mask))


def row(name: str, found: Found, place: int) -> str:
    """A line of the table."""
    areas = [float(masks[place].mean()) for masks in found.masks]
    title = f"| {name} | {DATASETS[name].classes[place]} |"
    answer = localise_class(found.images, areas, {})
    if not isinstance(answer, Proposals):
        return f"{title} not taken | | |"
    blobs = answer.by_index
    scores = np.array([overlap(one, found.masks[at][place]) for at, one in blobs.items()])
    sure = np.array([one.certainty for one in blobs.values()])
    weighted = float((scores * sure).sum() / sure.sum())
    return f"{title} {WORDS[answer.polarity]} | {scores.mean():.3f} | {weighted:.3f} |"


def main(data: Path) -> None:
    """Print the table."""
    print("| data | class | blobs | IoU | weighted by certainty |")
    print("|---|---|---|---|---|")
    for name in SHOWN:
        found = read(data, DATASETS[name])
        for place in range(len(DATASETS[name].classes)):
            print(row(name, found, place), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
