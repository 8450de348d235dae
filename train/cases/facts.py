"""What the files of a case say besides their pixels: as the check of the table found it, read anew
where a file has changed since."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.content import opened_once
from wsseg.imaging.files import held_file, version_of
from wsseg.imaging.intensity import ends_of, thinned
from wsseg.imaging.reading import read_grid, read_slice_and_origin, stored_as
from wsseg.imaging.scan import Origin, colours_of
from wsseg.train.cases.files import case_marks
from wsseg.train.cases.schema import Case, FileDigest, ImageFacts, Look

SAMPLED = 1 << 16
"""Values of a slice, of one with as many, that an intensity window is chosen by."""


class FilesOnce:
    """Opens the files of cases once for all that is read of one case.

    Those of a single case are read as a whole: a file of several is left to its readers, who take
    each slice from its place.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        self._uses = Counter(path for case in cases for path in case.files.values())

    @contextmanager
    def of(self, case: Case) -> Iterator[None]:
        """All that this thread reads of the case in the block comes from one opening a file."""
        with opened_once(*(path for path in case.files.values() if self._uses[path] == 1)):
            yield


def digest_of(path: Path) -> FileDigest | None:
    """The content of a file that is held as a whole; None of any other."""
    held = held_file(path)
    if held is None or held.content is None:
        return None
    return FileDigest(held.version, hashlib.sha256(held.content).digest())


def read_image_facts(case: Case, look: Look | None = None) -> ImageFacts:
    """What the header of a case's picture says, and how its slice looked. Raises ReadError."""
    grid = read_grid(case.image, case.volume)
    return ImageFacts(version_of(case.image), grid, stored_as(case.image), look)


def image_facts(case: Case) -> ImageFacts:
    """What is known of a case's picture, if its file is still the same. Raises ReadError."""
    known = case.contents.image
    if known is not None and known.version == version_of(case.image):
        return known
    return read_image_facts(case)


def look_at(case: Case, *, sampled: bool = False) -> Look:
    """The values of a case's slice, as they are known or read now. Raises ReadError.

    sampled: with evenly spaced values, so that large images count no more than small ones.
    """
    known = image_facts(case).look
    if known is not None and (known.sample is not None or not sampled):
        return known
    pixels, origin = read_slice_and_origin(
        case.image, slice_index=case.slice_index, volume=case.volume
    )
    return look_of(pixels, origin, sampled=sampled)


def look_of(
    pixels: NDArray[np.float32], origin: Origin | None = None, *, sampled: bool = False
) -> Look:
    """Where the values of a slice (row, column[, channel]) lie."""
    return Look(
        ends=ends_of(thinned(pixels)),
        colours=colours_of(pixels),
        rgb=pixels.ndim == 3,
        origin=origin or Origin(),
        sample=pixels.ravel()[:: max(1, pixels.size // SAMPLED)].copy() if sampled else None,
    )


def labelled_numbers(case: Case) -> frozenset[int]:
    """The numbers in a case's marks and points. Raises ReadError."""
    if case.contents.image is not None or not (case.marks or case.points):
        return case.contents.labelled
    marks = case_marks(case)
    return frozenset() if marks is None else frozenset(np.unique(marks[marks != 0]).tolist())
