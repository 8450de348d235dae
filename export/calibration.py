"""Calibration slices for int8, read from a table of cases or from any scans."""

import logging
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.discovery import find
from wsseg.imaging.errors import ReadError, WssegError
from wsseg.imaging.files import named_file
from wsseg.imaging.reading import read, read_slice
from wsseg.imaging.scan import ScanRef
from wsseg.imaging.scratch import scratch_folder
from wsseg.imaging.tables import TABLES, read_table
from wsseg.serve.batching import to_channels
from wsseg.train.cases import KNOWN, CellError, parse_index

Slice = NDArray[np.float32]

logger = logging.getLogger(__name__)


def calibration_slices(
    source: Path, *, channels: int, count: int, held_out: Sequence[Slice]
) -> list[Slice]:
    """Return at most `count` slices (c, H, W) in physical units, evenly spread over the source.

    source: a cases.csv, whose rows of the splits val and test are left out and whose labels are not
    read, or a folder, archive or file of DICOM, NIfTI or pictures. held_out: slices that engines
    are judged on; they are not used for calibration. The same files give the same slices. Files
    that cannot be read are skipped with a warning. Raises WssegError where no slice is left.
    """
    is_table = source.suffix.lower() in TABLES and not source.is_dir()
    slices = _from_table(source, count) if is_table else _from_scans(source, count)
    adapted = (np.array(to_channels(plane, channels), np.float32) for plane in slices)
    own = [raw for raw in adapted if not any(np.array_equal(raw, other) for other in held_out)]
    if not own:
        raise WssegError(
            f"{source} holds no image to calibrate int8 by (besides those that the engine is "
            "judged on): give a cases.csv or a folder of DICOM, NIfTI or PNG images"
        )
    logger.info("int8 is calibrated on %d slices of %s", len(own), source)
    return own


def evenly(count: int, wanted: int) -> list[int]:
    """Return at most `wanted` ascending indices of 0..count-1, from the middle of equal parts."""
    wanted = min(count, wanted)
    return [(2 * part + 1) * count // (2 * wanted) for part in range(wanted)]


def _from_table(path: Path, count: int) -> Iterator[Slice]:
    table = read_table(path, KNOWN)
    if "image" not in table.header:
        raise WssegError(f"{path} has no column named image: it holds the path of each picture")
    rows = [row for row in table.rows if row.cells.get("split", "") in ("", "train")]
    for row in (rows[index] for index in evenly(len(rows), count)):
        try:
            yield read_slice(
                named_file(path.parent, row.cells["image"]),
                slice_index=parse_index(row.cells.get("slice", "")),
                volume=parse_index(row.cells.get("volume", "")),
            )
        except (ReadError, CellError) as error:
            logger.warning("%s, line %d is skipped: %s", path.name, row.line, error)


def _from_scans(source: Path, count: int) -> Iterator[Slice]:
    with scratch_folder() as scratch:
        scans: list[ScanRef] = []
        for item in find([source], scratch=scratch):
            if isinstance(item, ScanRef):
                scans.append(item)
            elif item.status == "failed":
                logger.warning("%s is skipped: %s", item.source, item.message)
        chosen = [scans[index] for index in evenly(len(scans), count)]
        # Most slices of one scan look alike, so every scan contributes an equal share.
        bounds = [part * count // max(len(chosen), 1) for part in range(len(chosen) + 1)]
        for ref, (first, end) in zip(chosen, pairwise(bounds), strict=True):
            try:
                planes = read(ref).pixels
                slices = [planes[index].copy() for index in evenly(len(planes), end - first)]
            except ReadError as error:
                logger.warning("%s is skipped: %s", ref.files[0].source, error)
            else:
                yield from slices
