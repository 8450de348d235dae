"""How well marks, grown to the known area, give masks back: python -m bench.growth DATA

DATA holds busi/ and abdomen_ct/ as `bench.accuracy` reads them. Prints the mean IoU with the true
masks by kind of mark and way of growing, of every eighth image, at the images' own size.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.accuracy.datasets import DATASETS, label_map
from wsseg.imaging.definitions import mask_iou
from wsseg.train.simulate import (
    components,
    disc_mark,
    erode_mark,
    point_mark,
    random_disc_mark,
)
from wsseg.train.targets import growing as growth

EVERY = 8
PERCENT = 8.0
COSTS = ((3.0, 0.0), (10.0, 0.0), (30.0, 0.0), (10.0, 1.0), (10.0, 2.0), (10.0, 3.0))
"""Of a step over a strong edge, and of one on ground unlike the mark's."""
Mask = NDArray[np.bool_]
Marker = Callable[[Mask, int], Mask]

MARKS: dict[str, Marker] = {
    "eroded": lambda region, number: erode_mark(region, PERCENT),
    "centre disc": lambda region, number: disc_mark(region, PERCENT),
    "random disc": lambda region, number: random_disc_mark(
        region, PERCENT, np.random.default_rng(number)
    ),
    "one point": lambda region, number: point_mark(region),
}


def pictures(data: Path, name: str) -> Iterator[tuple[NDArray[np.float32], Mask]]:
    """Image 0..1 and region of every eighth picture that shows one."""
    dataset = DATASETS[name]
    for picture in dataset.read(data / dataset.folder)[::EVERY]:
        region = label_map(dataset, picture) == 1
        if region.any():
            with Image.open(picture.image) as image:
                grey = np.asarray(image.convert("L"), np.float32)
            yield grey / np.float32(255), region


def by_component(mark: Marker) -> Marker:
    """The same mark for every connected part of a region."""

    def marks(region: Mask, number: int) -> Mask:
        each = [mark(component, number) for component in components(region)]
        together: Mask = np.logical_or.reduce(each)
        return together

    return marks


def overlap(cost: NDArray[np.floating], region: Mask) -> float:
    """IoU of a region and the growth of the region's area by this cost."""
    grown = growth.shares(cost[None], np.array([float(region.sum())]), 1.0)[0] < 1
    return float(mask_iou(grown, region))


def row(data: Path, name: str, mark: Marker) -> list[float]:
    """Mean IoU of growing straight, and along the image at each of COSTS."""
    found = []
    for number, (image, region) in enumerate(pictures(data, name)):
        seed, free = mark(region, number), np.ones(region.shape, bool)
        edges, area = growth.edge_strength(image), float(region.sum())
        costs = [growth.euclidean_cost(seed, free)]
        for edge, unlike in COSTS:
            steps = growth.step_cost(image, edges, seed, area, edge_cost=edge, unlike_cost=unlike)
            costs.append(growth.geodesic_cost(steps, seed, free, 1.1 * area))
        found.append([overlap(cost, region) for cost in costs])
    means: list[float] = np.mean(found, 0).tolist()
    return means


def main(data: Path) -> None:
    """Print the table."""
    print(
        "| data | mark | straight | "
        + " | ".join(f"{edge:g}, {unlike:g}" for edge, unlike in COSTS)
        + " |"
    )
    print("|---|---|---|" + "---|" * len(COSTS))
    for name, mark in MARKS.items():
        print(
            f"| busi | {name} | " + " | ".join(f"{v:.3f}" for v in row(data, "busi", mark)) + " |"
        )
    kidneys = row(data, "kidneys", by_component(MARKS["eroded"]))
    print("| kidneys | eroded, each | " + " | ".join(f"{v:.3f}" for v in kidneys) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
