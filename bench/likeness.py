"""How often a picture is called unlike the training images, on its own scale and on another.

    python -m bench.likeness [--count 2000]

Made sonograms (speckle of a level of its own, a dark disc, black outside the fan) and grey pictures
that scikit-image ships are made darker, brighter, flatter, harder or cropped: those are ordinary,
and none should carry OUT_OF_RANGE. Copies in 16 bits, in 12 bits and from 0 to 1 should. Half of
the pictures of a kind make the trained range, the other half are held against it.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import data

from bench.timing import where
from wsseg.imaging.definitions import Range, Window
from wsseg.imaging.intensity import ends_of, is_beyond, is_flat, range_of, thinned

WINDOW = Window(low=0, high=255)
SIDE = 128
MADE = 80
SHIPPED = ("brick", "camera", "cell", "clock", "coins", "grass", "gravel", "moon", "page", "text")
COPIES: dict[str, Callable[["Image"], "Image"]] = {
    "16 bits": lambda grey: grey * 257,
    "12 bits": lambda grey: grey * 16,
    "0 to 1": lambda grey: grey / 255,
}

Image = NDArray[np.floating[Any]]


def sonogram(rng: np.random.Generator) -> Image:
    """Whole grey values (row, column), 0..255."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    grey = rng.uniform(60, 150) * rng.gamma(12, 1 / 12, (SIDE, SIDE))
    grey[np.hypot(rows - 80, columns - 64) < rng.uniform(12, 28)] *= 0.4
    grey[abs(columns - 64) > rows + 16] = 0
    return grey.clip(0, 255).round().astype(np.float32)


def changed(grey: Image, rng: np.random.Generator) -> Image:
    """Another exposure, contrast and crop of a picture, as whole grey values 0..255."""
    curve = 255 * (grey / 255) ** rng.uniform(0.5, 2) * rng.uniform(0.5, 1.7) + rng.uniform(-60, 60)
    side = int(min(grey.shape) * rng.uniform(0.5, 1))
    row, column = (int(rng.integers(0, size - side + 1)) for size in grey.shape)
    return curve[row : row + side, column : column + side].clip(0, 255).round().astype(np.float32)


def flagged(grey: Image, trained: Range) -> bool:
    """Whether wsseg-infer would call a picture unlike the training images."""
    ends = ends_of(thinned(grey.astype(np.float32)))
    return ends is not None and (is_beyond(ends, trained, WINDOW) or is_flat(ends, trained, WINDOW))


def shares(pictures: Sequence[Image], count: int, rng: np.random.Generator) -> dict[str, int]:
    """How many of `count` changed pictures, and of their copies on other scales, are flagged."""
    half = len(pictures) // 2
    ends = [ends_of(thinned(picture.astype(np.float32))) for picture in pictures[:half]]
    trained = range_of([end for end in ends if end])
    if trained is None:
        raise SystemExit("no picture has a range")
    found = dict.fromkeys(("as it is", *COPIES), 0)
    for index in range(count):
        picture = pictures[half + index % (len(pictures) - half)]
        grey = changed(picture, rng)
        found["as it is"] += flagged(grey, trained)
        for name, copy in COPIES.items():
            found[name] += flagged(copy(picture), trained)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    count = parser.parse_args().count
    rng = np.random.default_rng(0)
    kinds = {
        "made sonograms": [sonogram(rng) for _ in range(MADE)],
        "pictures of scikit-image": [getattr(data, name)().astype(np.float32) for name in SHIPPED],
    }
    print(f"{where()}; {count} pictures of each kind\n")
    print(f"| flagged | another exposure, contrast, crop | {' | '.join(COPIES)} |")
    print(f"|---|{'---|' * (1 + len(COPIES))}")
    for name, pictures in kinds.items():
        found = shares(pictures, count, rng)
        print(f"| {name} | {' | '.join(str(value) for value in found.values())} |")


if __name__ == "__main__":
    main()
