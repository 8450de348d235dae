"""The files of a case: label maps and pixels, orientation, facts of the image, changed files.

A table counts rows and columns of DICOM images as they are stored; label maps and pixels are read
here as the image is shown.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.content import HELD_BYTES, opened_once
from wsseg.imaging.definitions import luminance
from wsseg.imaging.dicom import is_segmentation, unnamed_segments
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import held_file, seen_by, version_of
from wsseg.imaging.intensity import ends_of, thinned
from wsseg.imaging.label_maps import read_labels_for
from wsseg.imaging.limits import Room, release_memory
from wsseg.imaging.reading import (
    read_grid,
    read_slice,
    read_slice_and_origin,
    slice_count,
    slice_shape,
    stored_as,
    unnamed_numbers,
)
from wsseg.imaging.scan import AS_STORED, Origin, Reorientation, colours_of
from wsseg.imaging.stopping import reading_threads
from wsseg.train.cases.schema import (
    NOT_MARKED,
    Box,
    Case,
    FileDigest,
    ImageFacts,
    Look,
    Point,
    Region,
)

WHITE = 255
PARTS = 1 << 16
"""A power of two: no value of an 8-bit image lies between two parts, where it could be rounded
either way."""
SAMPLED = 1 << 16
"""Values of a slice from which an intensity window is chosen, if the slice has as many."""
READERS = 4
SHOWN = 5
PIXEL_BYTES = {"picture": 32, "volume": 16, "dicom": 16}
"""Most bytes that a pixel takes while its slice is read, in all copies and channels."""
HELD = Room(1 << 28)
DECODING = Room(1 << 30)
"""Memory of files that are held, and of slices that are decoded, by all threads together: however
many read, the images of a table may be large."""
LARGE = 1 << 26
"""Bytes of a case from which on freed memory goes back to the system."""
PARTNERS = {".hdr": (".img", ".img.gz"), ".mhd": (".raw", ".zraw")}
"""Formats whose pixels are in a second file of the same stem."""

Number = TypeVar("Number", int, float)
Prints = dict[str, list[int | str]]
"""By line and column of the table: size in bytes, time of change in ns, sha256 of the content."""


# The label maps and the image of a case as arrays.


def case_mask(case: Case, classes: int) -> NDArray[np.uint8] | None:
    """Return the full mask (row, column), 0 background, else the label; None without a mask.

    Raises ReadError for a file that cannot be read.
    """
    if case.mask is None:
        return None
    kept = _taken(case, "mask")
    return mask_slice(case.mask, case, classes) if kept is None else kept.astype(np.uint8)


def case_marks(case: Case) -> NDArray[np.uint8] | None:
    """Return the weak marks (row, column) of a checked case; None without marks and points.

    0 not marked, else the label, 255 marked as background. Points, extremes among them, are drawn
    over the marks file as one pixel each. Raises ReadError for a file that cannot be read.
    """
    marks = None
    if case.marks is not None:
        kept = _taken(case, "marks")
        marks = label_slice(case.marks, case) if kept is None else kept.astype(np.uint8)
    if not case.points:
        return marks
    if marks is None:
        shape = slice_shape(case.image, slice_index=case.slice_index, volume=case.volume)
        marks = np.zeros(shape, np.uint8)
    return draw_points(marks, case.points)


def _taken(case: Case, column: str) -> NDArray[np.generic] | None:
    """Take the pixels that the check of the table kept; None without, or if the file changed."""
    kept = case.contents.decoded.pop(column, None)
    same = kept is not None and kept.version == version_of(case.files[column])
    return kept.pixels if kept is not None and same else None


def draw_points(marks: NDArray[np.uint8], points: tuple[Point, ...]) -> NDArray[np.uint8]:
    """Return a copy of the marks (row, column) with the label of each point."""
    drawn = marks.copy()
    for row, column, label in points:
        drawn[row, column] = label
    return drawn


def class_masks(case: Case, classes: int) -> NDArray[np.bool_] | None:
    """Return the full masks (k, row, column) of a checked case, or None. Raises ReadError."""
    labels = case_mask(case, classes)
    if labels is None:
        return None
    masks: NDArray[np.bool_] = labels == np.arange(1, classes + 1, dtype=np.uint8)[:, None, None]
    return masks


def mask_slice(path: Path, case: Case, classes: int) -> NDArray[np.uint8]:
    """Return the slice of a mask file that belongs to a case; its values are not checked.

    With one class, a black and white image (0 and 255 only) means background and class 1.
    """
    labels = label_slice(path, case, background=0)
    if classes == 1 and not np.any((labels != 0) & (labels != WHITE)):
        return np.minimum(labels, 1)
    return labels


def label_slice(path: Path, case: Case, *, background: int = WHITE) -> NDArray[np.uint8]:
    """Return the labels of a case in a label file, (row, column) of its image as shown.

    background: the result's value for the file's marked background, 0 in a mask. A file with one
    slice belongs to any slice of a volume: marks for a slice of a NIfTI file are stored as a
    picture.
    """
    return read_labels_for(
        case.image,
        path,
        slice_index=case.slice_index,
        volume=case.volume,
        numbering=case.numbering,
        background=background,
    )


def unnamed_labels(case: Case) -> set[int]:
    """Return the numbers in the label files of a case that stand for no class."""
    unnamed: set[int] = set()
    for path in (case.marks, case.mask):
        if path is None or not case.numbering.stored:
            continue
        if is_segmentation(path):
            unnamed.update(unnamed_segments(path, case.numbering))
        else:
            # The file may have fewer slices than the image.
            own = min(case.slice_index, slice_count(path) - 1)
            unnamed.update(
                unnamed_numbers(path, case.numbering, slice_index=own, volume=case.volume)
            )
    return unnamed


def read_image(case: Case, channels: int) -> NDArray[np.float32]:
    """Return the slice (c, row, column) in physical units, with the network's channels, 1 or 3.

    Raises ReadError for a file that cannot be read.
    """
    kept = _taken(case, "image")
    if kept is None:
        pixels = read_slice(case.image, slice_index=case.slice_index, volume=case.volume)
    else:
        pixels = kept.astype(np.float32)
    if pixels.ndim == 3 and channels == 1:
        pixels = luminance(pixels)
    if pixels.ndim == 2:
        return pixels[None] if channels == 1 else np.repeat(pixels[None], channels, axis=0)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def scaled(pixels: NDArray[np.float32]) -> NDArray[np.float32] | NDArray[np.int32]:
    """Return pixels in parts of their range: the same in 8 bits, in 16 and from 0 to 1.

    Images of one value are returned unchanged.
    """
    low, high = float(pixels.min()), float(pixels.max())
    if not low < high:
        return pixels
    share = (pixels.astype(np.float64) - low) / (high - low)
    return np.rint(share * PARTS).astype(np.int32)


def read_marks(case: Case, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the weak marks (row, column) of `case_marks`; without marks nothing is marked."""
    marks = case_marks(case)
    return np.full(shape, NOT_MARKED, np.uint8) if marks is None else marks


# Rows and columns as a table counts them, and as the image is shown.


def as_counted(case: Case, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return labels (row, column) as shown by the rows and columns that the table counts.

    Raises ReadError for an image whose header cannot be read.
    """
    return read_grid(case.image, case.volume).reorientation.undo(labels)


def shown(case: Case) -> Case:
    """Return a checked case whose points and regions are those of the image as shown.

    Raises ReadError for an image whose header cannot be read.
    """
    if not case.counts_pixels:
        return case
    grid = read_grid(case.image, case.volume)
    if grid.reorientation == AS_STORED:
        return case
    counted = _Counted(grid.reorientation, grid.shape)
    return replace(
        case,
        points=tuple((*counted.point((row, column)), label) for row, column, label in case.points),
        regions=tuple(counted.region(region) for region in case.regions),
    )


class _Counted:
    """Points and regions of an image before its reorientation; shape: rows and columns as shown."""

    def __init__(self, turn: Reorientation, shape: tuple[int, int]) -> None:
        self._turn = turn
        self._last = shape[0] - 1, shape[1] - 1

    def point(self, point: tuple[Number, Number]) -> tuple[Number, Number]:
        """Return row and column as shown; whole numbers are centres of pixels."""
        row, column = point[::-1] if self._turn.transpose else point
        return (
            self._last[0] - row if self._turn.flip_rows else row,
            self._last[1] - column if self._turn.flip_columns else column,
        )

    def box(self, box: Box) -> Box:
        one = self.point((box.top, box.left))
        other = self.point((box.bottom - 1, box.right - 1))
        (top, bottom), (left, right) = (sorted(ends) for ends in zip(one, other, strict=True))
        return Box(top, left, bottom + 1, right + 1)

    def region(self, region: Region) -> Region:
        spread = region.spread
        return replace(
            region,
            box=region.box and self.box(region.box),
            extremes=tuple(map(self.point, region.extremes)),
            centroid=region.centroid and self.point(region.centroid),
            spread=spread[::-1] if spread and self._turn.transpose else spread,
        )


# Facts of an image: from the check of the table, or read again if the file has changed since.


class FilesOnce:
    """Opens the files of a case once for all that is read from them.

    A file of a single case is held as a whole; from a file of several cases, slices are read one by
    one. A file whose pixels the check of the table kept is not opened. Threads wait where their
    files and slices together would take too much memory.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        self._uses = Counter(path for case in cases for path in case.files.values())

    @contextmanager
    def of(self, case: Case) -> Iterator[None]:
        """Let this thread open each file of the case once within the block."""
        wanted = [
            path for column, path in case.files.items() if column not in case.contents.decoded
        ]
        files = [path for path in wanted if self._uses[path] == 1]
        with HELD.taking(sum(map(_held_bytes, files))), opened_once(*files):
            nbytes = sum(_decoded_bytes(path, case) for path in wanted)
            with DECODING.taking(nbytes):
                yield
                if nbytes > LARGE:
                    release_memory()


def _held_bytes(path: Path) -> int:
    """Return the size of a file that `opened_once` may hold; 0 for a larger or missing one."""
    try:
        size = path.stat().st_size
    except (OSError, ValueError):
        return 0
    return size if size <= HELD_BYTES else 0


def _decoded_bytes(path: Path, case: Case) -> int:
    """Return what a slice takes while it is read; 0 for a file whose header cannot be read."""
    try:
        # A segmentation has the grid of its image, and may take seconds to parse.
        segmentation = path != case.image and is_segmentation(path)
        grid = read_grid(case.image if segmentation else path, case.volume)
    except (WssegError, OSError, ValueError):
        return 0
    return grid.shape[0] * grid.shape[1] * PIXEL_BYTES[grid.kind]


def digest_of(path: Path) -> FileDigest | None:
    """Return the digest of a file that is held as a whole; None for any other."""
    held = held_file(path)
    if held is None or held.content is None:
        return None
    return FileDigest(held.version, hashlib.sha256(held.content).digest())


def read_image_facts(case: Case, look: Look | None = None) -> ImageFacts:
    """Read the facts of a case's image from its header; look: of its slice. Raises ReadError."""
    grid = read_grid(case.image, case.volume)
    return ImageFacts(version_of(case.image), grid, stored_as(case.image), look)


def image_facts(case: Case) -> ImageFacts:
    """Return the facts of a case's image, read again if its file has changed. Raises ReadError."""
    known = case.contents.image
    if known is not None and known.version == version_of(case.image):
        return known
    return read_image_facts(case)


def known_look(case: Case) -> Look | None:
    """Return the look of a case's slice from the check of the table, unless the file changed."""
    known = case.contents.image
    return known.look if known is not None and known.version == version_of(case.image) else None


def look_at(case: Case, *, sampled: bool = False) -> Look:
    """Return the look of a case's slice, read if it is not known. Raises ReadError.

    sampled: with evenly spaced values, so that large images count no more than small ones.
    """
    known = known_look(case)
    if known is not None and (known.sample is not None or not sampled):
        return known
    kept = case.contents.decoded.get("image")
    if known is not None and kept is not None:
        return look_of(kept.pixels.astype(np.float32), known.origin, sampled=sampled)
    pixels, origin = read_slice_and_origin(
        case.image, slice_index=case.slice_index, volume=case.volume
    )
    return look_of(pixels, origin, sampled=sampled)


def look_of(
    pixels: NDArray[np.float32], origin: Origin | None = None, *, sampled: bool = False
) -> Look:
    """Return the look of a slice (row, column[, channel])."""
    return Look(
        ends=ends_of(thinned(pixels)),
        colours=colours_of(pixels),
        rgb=pixels.ndim == 3,
        origin=origin or Origin(),
        sample=pixels.ravel()[:: max(1, pixels.size // SAMPLED)].copy() if sampled else None,
    )


def compact(pixels: NDArray[np.float32]) -> NDArray[np.generic]:
    """Return pixels in the smallest whole-number type that holds them; unchanged if none does."""
    low, high = pixels.min(), pixels.max()
    for kind in (np.uint8, np.int16, np.uint16):
        limits = np.iinfo(kind)
        if limits.min <= low and high <= limits.max:
            whole = pixels.astype(kind)
            return whole if np.array_equal(whole, pixels) else pixels
    return pixels


def labelled_numbers(case: Case) -> frozenset[int]:
    """Return the labels in a case's marks and points. Raises ReadError."""
    if case.contents.image is not None or not (case.marks or case.points):
        return case.contents.labelled
    marks = case_marks(case)
    return frozenset() if marks is None else frozenset(np.unique(marks[marks != 0]).tolist())


# Whether the files of a table are still those that a run began with.


def fingerprints(cases: Sequence[Case]) -> Prints:
    """Return the fingerprints of all files for training and validation.

    A file is read once for all its cases, and only if the check of the table did not read it whole.
    """
    paths = _paths(cases)
    known = {
        path: case.contents.digests[column]
        for case in cases
        for column, path in case.files.items()
        if column in case.contents.digests
    }

    def fingerprint(path: Path) -> list[int | str]:
        digest = known.get(path)
        if digest is not None and digest.version == seen_by(path.stat()):
            return [*digest.version, digest.sha256.hex()]
        return _print(path)

    several = list(dict.fromkeys(paths.values()))
    with reading_threads(READERS) as pool:
        prints = dict(zip(several, pool.map(fingerprint, several), strict=True))
    return {cell: prints[path] for cell, path in paths.items()}


def image_sha256(prints: Mapping[str, Any], row: int) -> str:
    """Return the sha256 of the file with the pixels of a row's image; empty if it has no print."""
    cell = f"image of line {row}"
    found = prints.get(f"{cell} (pixels)") or prints.get(cell) or ("", "", "")
    return str(found[2])


def require_unchanged(before: Mapping[str, Any], cases: Sequence[Case]) -> None:
    """Raise WssegError, with lines of the table, if files differ from those at the run's start.

    A file of the same size and time is taken as unchanged; any other is read, and may be a copy.
    """
    changed = []
    for cell, path in _paths(cases).items():
        if cell not in before:
            continue
        size, time, digest = before[cell]
        about = path.stat()
        same = about.st_size == size
        if not (same and (about.st_mtime_ns == time or _print(path)[2] == digest)):
            changed.append(cell)
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise WssegError(
            f"files of the table have changed since the run began: {', '.join(changed[:SHOWN])}"
            f"{more}: restore them, or train again with another --out"
        )


def _paths(cases: Sequence[Case]) -> dict[str, Path]:
    """Return files by line and column, not by their names, which may be patients'."""
    paths: dict[str, Path] = {}
    for case in cases:
        if case.split == "test":
            continue
        for column, path in case.files.items():
            cell = f"{column} of line {case.row}"
            paths[cell] = path
            for suffix in PARTNERS.get(path.suffix.lower(), ()):
                if path.with_suffix(suffix).is_file():
                    paths[f"{cell} (pixels)"] = path.with_suffix(suffix)
    return paths


def _print(path: Path) -> list[int | str]:
    about = path.stat()
    with path.open("rb") as file:
        return [about.st_size, about.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest()]
