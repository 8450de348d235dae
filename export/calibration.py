"""Calibration slices: read as training reads them, from a table of cases or from any scans."""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.discovery import find
from wsseg.imaging.errors import Failure, ReadError, WssegError
from wsseg.imaging.files import named_file
from wsseg.imaging.reading import read, read_slice
from wsseg.imaging.scan import ScanRef
from wsseg.imaging.tables import TABLES, Row, read_table
from wsseg.serve.batching import to_channels
from wsseg.train.cases.cells import CellError, parse_index
from wsseg.train.cases.schema import KNOWN

Slice = NDArray[np.float32]

logger = logging.getLogger(__name__)


def calibration_slices(
    source: Path, *, channels: int, count: int, held_out: Sequence[Slice]
) -> list[Slice]:
    """At most `count` slices (c, H, W) in physical units, evenly spread over what there is.

    source: a cases.csv, of which the rows of split val and test are left out and no label is read,
    or a folder, archive or file of DICOM, NIfTI or pictures. held_out: slices that an engine will
    be judged on, which must not be calibrated on. The same files give the same slices. Files that
    cannot be read are passed over with a warning. Raises WssegError where nothing is left.
    """
    found = _of_table(source, count) if _is_table(source) else _of_scans(source, count)
    adapted = (np.array(to_channels(plane, channels), np.float32) for plane in found)
    own = [raw for raw in adapted if not any(np.array_equal(raw, other) for other in held_out)]
    if not own:
        raise WssegError(
            f"{source} holds no image to calibrate int8 by (besides those that the engine is "
            "judged on): give a cases.csv or a folder of DICOM, NIfTI or PNG images"
        )
    logger.info("int8 is calibrated on %d slices of %s", len(own), source)
    return own


def evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` places of 0..count-1, from the middle of equal parts, ascending."""
    wanted = min(count, wanted)
    return [(2 * number + 1) * count // (2 * wanted) for number in range(wanted)]


def _is_table(source: Path) -> bool:
    return source.suffix.lower() in TABLES and not source.is_dir()


def _of_table(path: Path, count: int) -> Iterator[Slice]:
    table = read_table(path, KNOWN)
    if "image" not in table.header:
        raise WssegError(f"{path} has no column named image: it holds the path of each picture")
    rows = [row for row in table.rows if row.cells.get("split", "") in ("", "train")]
    for place in evenly(len(rows), count):
        try:
            yield _of_row(rows[place], path.parent)
        except (ReadError, CellError) as error:
            logger.warning("%s, line %d is passed over: %s", path.name, rows[place].line, error)


def _of_row(row: Row, folder: Path) -> Slice:
    return read_slice(
        named_file(folder, row.cells["image"]),
        slice_index=parse_index(row.cells.get("slice", "")),
        volume=parse_index(row.cells.get("volume", "")),
    )


def _of_scans(source: Path, count: int) -> Iterator[Slice]:
    with tempfile.TemporaryDirectory(prefix="wsseg-") as scratch:
        scans = list(_readable(find([source], scratch=Path(scratch))))
        chosen = [scans[place] for place in evenly(len(scans), count)]
        # Most of one scan's slices look alike: every scan gives its share of the slices.
        bounds = [place * count // max(len(chosen), 1) for place in range(len(chosen) + 1)]
        for ref, (first, end) in zip(chosen, pairwise(bounds), strict=True):
            try:
                planes = read(ref).pixels
                slices = [planes[place].copy() for place in evenly(len(planes), end - first)]
            except ReadError as error:
                logger.warning("%s is passed over: %s", ref.files[0].source, error)
            else:
                yield from slices


def _readable(found: Iterable[ScanRef | Failure]) -> Iterator[ScanRef]:
    for ref in found:
        if isinstance(ref, ScanRef):
            yield ref
        elif ref.status == "failed":
            logger.warning("%s is passed over: %s", ref.source, ref.message)
