"""Time to grow the target of a 512 x 512 picture: python -m bench.growth_speed

The peer is scikit-image's random walker (conjugate gradients), a usual way to spread marks over an
image, on the same picture and marks, with background marked around the region.
"""

import statistics
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.segmentation import random_walker

from bench.method_picture import phantom
from bench.timing import ratio, where
from wsseg.train.cases import Case
from wsseg.train.simulate import disc_mark, erode_mark
from wsseg.train.targets import case_evidence, grown

SIDE = 512
NETWORK = 256
PERCENT = 8.0
RUNS = 5
AWAY = 60
"""Pixels from the region at which background begins for the random walker."""
MARKS = {"eroded, straight": erode_mark, "disc, along edges": disc_mark}


def enlarged(part: NDArray[np.generic]) -> NDArray[np.generic]:
    """A picture or mask at SIDE x SIDE."""
    return np.asarray(Image.fromarray(part).resize((SIDE, SIDE)))


def row(name: str, image: NDArray[np.float32], region: NDArray[np.bool_]) -> str:
    """One kind of mark: median milliseconds, and the ratio to the random walker."""
    mark = MARKS[name](region, PERCENT).astype(np.uint8)
    case = Case(row=2, image=Path("made.png"), ratios=(float(region.mean()),))
    labels = mark + 2 * (ndimage.distance_transform_edt(~region) > AWAY).astype(np.uint8)

    def ours() -> None:
        grown(case_evidence(case, image[None], mark, ("image",)), "euclidean", NETWORK)

    def peer() -> None:
        random_walker(image, labels, beta=130, mode="cg_j")

    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        ours()
        times.append(time.perf_counter() - start)
    return f"| {name} | {1000 * statistics.median(times):.0f} | {ratio(ours, peer, RUNS)} |"


def main() -> None:
    """Print the table."""
    image, region = phantom()
    big = enlarged(image).astype(np.float32), enlarged(region).astype(bool)
    print(where())
    print("| mark | ms a picture, median | time over the random walker's |\n|---|---|---|")
    for name in MARKS:
        print(row(name, *big))


if __name__ == "__main__":
    main()
