"""Whether a file is still the one that was found."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsseg.imaging.errors import ReadError
from wsseg.imaging.scan import FileRef


def seen_by(status: os.stat_result) -> tuple[int, int]:
    """What tells a file of any format from another one put in its place: size and time."""
    return status.st_size, status.st_mtime_ns


def version_of(path: Path) -> tuple[int, int]:
    """What `seen_by` tells of a file now; part of the key under which its content is kept."""
    return seen_by(path.stat())


def check_unchanged(file: FileRef, seen: tuple[str | int, ...]) -> None:
    """Compare what a file shows now with what it showed when it was found, if that is known.

    Raises ReadError: a file that was replaced meanwhile may belong to another scan or patient.
    """
    if file.seen and file.seen != seen:
        raise ReadError(
            "changed",
            f"{file.source} was replaced after the inputs were listed: run it again when nothing "
            "writes to them",
        )


@contextmanager
def unchanged(file: FileRef) -> Iterator[None]:
    """Read a file of any format but DICOM, which is told by its UIDs; raises as above.

    A file that was replaced by a broken one, or while it was read, is told as one that changed.
    """
    if not file.seen:
        yield
        return
    check_unchanged(file, version_of(file.path))
    try:
        yield
    finally:
        check_unchanged(file, version_of(file.path))
