"""Series of 512 x 512 slices made from real ones."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.speed.setting import Setting
from wsseg.cli.demo_data import write_series
from wsseg.imaging.definitions import luminance
from wsseg.imaging.discovery import find
from wsseg.imaging.errors import NothingToDoError, WssegError
from wsseg.imaging.files import atomic, atomic_folder
from wsseg.imaging.reading import read
from wsseg.imaging.scan import ScanRef

SIDE = 512
AFFINE = np.diag([0.75, 0.75, 3.0, 1.0])
MOST = 100
"""Different slices: series beyond take the same ones, moved."""
PERCENTILES = (0.5, 99.5)
Slices = NDArray[np.uint8]


def slices_file(setting: Setting) -> Path:
    """MOST real slices (slice, row, column) as .npy; made once."""
    path = setting.work / "slices.npy"
    if not path.exists():
        found = _from_folder(setting.data) if setting.data else _from_template()
        kept = [plane for plane, _ in zip(found, range(MOST), strict=False)]
        if not kept:
            raise NothingToDoError(f"{setting.data} holds no scan that can be read: give --data")
        with atomic(path) as partial:
            np.save(partial, np.stack(kept))
    return path


def series_folder(setting: Setting, name: str, *, series: int, slices: int) -> Path:
    """Folder with `series` folders of `slices` DICOM files each, no two alike; made once."""
    folder = setting.work / f"{name}-{series}x{slices}"
    if not folder.exists():
        pixels: Slices = np.load(slices_file(setting))
        with atomic_folder(folder) as partial:
            for number in range(series):
                moved = _series(pixels, slices, number)
                write_series(moved, AFFINE, partial / f"{number:04d}", key=f"{name} {number}")
    return folder


def first_series(folder: Path, count: int) -> Path:
    """A folder of the first `count` series of another, without copying them."""
    part = folder.with_name(f"{folder.name}-first-{count}")
    if not part.exists():
        with atomic_folder(part) as partial:
            for source in sorted(folder.iterdir())[:count]:
                shutil.copytree(source, partial / source.name, copy_function=_link)
    return part


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def _series(pixels: Slices, slices: int, number: int) -> Slices:
    """Slices of the `number`-th series: the real ones, shifted by that many rows."""
    places = (np.arange(slices) + number) % len(pixels)
    moved: Slices = np.roll(pixels[places], number % SIDE, axis=1)
    return moved


def _from_folder(folder: Path) -> Iterator[Slices]:
    with tempfile.TemporaryDirectory() as scratch:
        for found in find([folder], scratch=Path(scratch)):
            if isinstance(found, ScanRef):
                yield from _bytes(found)


def _bytes(ref: ScanRef) -> Iterator[Slices]:
    """The slices of a scan in 8 bits at SIDE x SIDE; none of a scan that cannot be read."""
    try:
        pixels = read(ref).pixels
    except WssegError:
        return
    low, high = np.percentile(pixels, PERCENTILES)
    for plane in pixels:
        grey = luminance(plane) if plane.ndim == 3 else plane
        yield _resized((255 * (grey - low) / max(high - low, 1e-6)).clip(0, 255))


def _from_template() -> Iterator[Slices]:
    """Axial slices of the brain template."""
    from wsseg.cli.demo_data import BRAIN, as_bytes, load

    with tempfile.TemporaryDirectory() as scratch:
        pixels = load(Path(scratch)).scan.pixels
    for index in BRAIN:
        yield _resized(as_bytes(pixels[index]).astype(np.float32))


def _resized(grey: NDArray[np.float32]) -> Slices:
    image = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image).round().astype(np.uint8)
