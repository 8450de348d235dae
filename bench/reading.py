"""How long a DICOM series takes to find and read, as a ratio to highdicom in the same run.

    python -m bench.reading [--slices 100]

The series is made on the spot: 512 x 512, 16 bit, uncompressed.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from highdicom import get_volume_from_series
from pydicom import dcmread

from bench.timing import ratio, where
from wsseg.cli.demo_data import write_series
from wsseg.imaging.discovery import find
from wsseg.imaging.reading import read
from wsseg.imaging.scan import ScanRef


def ours(folder: Path) -> None:
    """Find the series and read it, as wsseg-infer does."""
    for found in find([folder], scratch=folder.parent):
        if isinstance(found, ScanRef):
            read(found)


def peer(folder: Path) -> None:
    """Read all files and let highdicom order and decode them."""
    get_volume_from_series([dcmread(path) for path in sorted(folder.iterdir())])


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=100)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (arguments.slices, 512, 512), np.uint8)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "series")
        write_series(pixels, np.diag([0.7, 0.7, 2.0, 1.0]), folder)
        figure = ratio(lambda: ours(folder), lambda: peer(folder))
    print(f"{where()}; {arguments.slices} slices of 512 x 512, 16 bit, warm cache\n")
    print("| reading a series | wsseg time / highdicom time |\n|---|---|")
    print(f"| find, order, decode, rescale | {figure} |")


if __name__ == "__main__":
    main()
