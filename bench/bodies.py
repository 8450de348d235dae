"""Cases of bodies in CT slices, to train the networks that `bench.speed --trained` times.

    python -m bench.bodies SLICES OUT
    wsseg-train OUT/cases.csv --out RUN --preset full --network resnet50 --size 128 --epochs 8
    wsseg-train OUT/cases.csv --out STUDENT --preset full --network mobilenet_v2 --size 128 \\
      --epochs 12 --distill RUN

SLICES: folder of 8-bit pictures of CT, black outside the patient. A body is the largest connected
part above black, holes filled: easy to outline, so that a network learns it within the hour.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

COUNT = 72
BLACK = 8
VALIDATE_EVERY = 6


def main() -> None:
    """Read the command line and write the table with its masks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slices", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    files = sorted(asked.slices.iterdir())
    chosen = [files[place] for place in np.linspace(0, len(files) - 1, COUNT).astype(int)]
    (asked.out / "masks").mkdir(parents=True)
    with (asked.out / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "ratio", "mask", "split"))
        for number, image in enumerate(chosen):
            mask = body(np.asarray(Image.open(image).convert("L")))
            name = f"masks/{image.stem}.png"
            Image.fromarray(mask.astype(np.uint8)).save(asked.out / name)
            split = "train" if number % VALIDATE_EVERY else "val"
            writer.writerow((image.resolve(), f"{mask.mean():.6f}", name, split))


def body(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The largest connected part above black (rows, columns), holes filled; empty where none is."""
    labels, count = ndimage.label(ndimage.binary_opening(grey > BLACK, iterations=2))
    sizes = ndimage.sum(labels > 0, labels, range(1, count + 1))
    largest = labels == 1 + np.argmax(sizes) if count else np.zeros(grey.shape, bool)
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(largest)
    return filled


if __name__ == "__main__":
    main()
