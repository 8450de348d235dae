"""Files that cannot be written: which, why, and how much space there is, in one sentence."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsseg.imaging.errors import AllFailedError, WssegError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors that end when there is more space."""
_OF_A_DISK = (*FULL, errno.EROFS, errno.EIO)
"""Errors that only writing, or a disk that fails, can cause."""
_OF_A_PATH = (
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR),
    *(errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
)
"""Errors that reading can cause too: they count where they name the file or its folder."""
_PROBE_BYTES = 1 << 16
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


class NotWrittenError(AllFailedError, OSError):
    """A file that cannot be written, because of its disk or its folder; what was there stays.

    It is an OSError too: its `strerror` says why, with the space where that was wanting, for
    messages that name the file themselves.
    """

    def __init__(self, number: int, why: str, path: str) -> None:
        OSError.__init__(self, number, why, path)

    def __str__(self) -> str:
        """Say which file, why, and what to do."""
        if self.errno in FULL:
            remedy = "make room, or name another place, and run it again"
        else:
            remedy = "check the folder, or name another place"
        return f"{self.filename} could not be written: {self.strerror}; {remedy}"


def is_full(error: BaseException) -> bool:
    """Whether more space is the remedy."""
    return isinstance(error, OSError) and error.errno in FULL


def not_written(
    error: OSError, path: Path | None = None, *, partial: Path | None = None, needed: int = 0
) -> NotWrittenError | None:
    """The error in words; None for one that has another reason than a disk or a folder.

    path: the file that was to be written; None where only the error may name it. partial: what
    there is of it and will be removed. needed: its size in bytes; 0 if not known.
    """
    number = error.errno or 0
    of_path = path is not None and number in _OF_A_PATH and _is_of(error, path)
    if number not in _OF_A_DISK and not of_path:
        return None
    why = "its folder is gone" if number == errno.ENOENT else os.strerror(number)
    named = path or (error.filename and Path(os.fsdecode(error.filename)))
    if number == errno.ENOSPC and named:
        why += _space(named, partial, needed)
    return NotWrittenError(number, why, str(named or "a file"))


@contextmanager
def writing(path: Path, partial: Path | None = None, *, needed: int = 0) -> Iterator[None]:
    """Raise NotWrittenError where the block cannot write the file `path`, for reasons of its disk.

    partial: the scratch file, or folder, that the block writes. Libraries that write past Python
    lose the reason: it is found by writing a little more to it. needed: size in bytes; 0 if not
    known. Errors with other reasons pass through.
    """
    try:
        yield
    except (WssegError, MemoryError):
        raise
    except Exception as error:
        reason: OSError | None = error if isinstance(error, OSError) and error.errno else None
        if reason is None and partial is not None:
            reason = _refusal(partial)
        known = reason and not_written(reason, path, partial=partial, needed=needed)
        if known:
            raise known from error
        raise


def size_text(nbytes: int) -> str:
    """A number of bytes as people read it."""
    for unit, name in _UNITS:
        if nbytes >= unit:
            return f"{nbytes / unit:.1f} {name}"
    return f"{nbytes} bytes"


def _space(path: Path, partial: Path | None, needed: int) -> str:
    """The space that there is for a file, in brackets; "" where the system does not tell."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    with suppress(OSError):
        free = shutil.disk_usage(there).free
        if partial is not None:
            parts = partial.rglob("*") if partial.is_dir() else (partial,)
            free += sum(part.stat().st_size for part in parts if part.is_file())
        return f" ({size_text(free)} free{f', {size_text(needed)} needed' if needed else ''})"
    return ""


def _is_of(error: OSError, path: Path) -> bool:
    """Whether the error names the file, its folder, one above or something in its folder."""
    if error.filename is None:
        return False
    named, folder = Path(os.fsdecode(error.filename)).absolute(), path.absolute().parent
    return named.is_relative_to(folder) or folder.is_relative_to(named)


def _refusal(partial: Path) -> OSError | None:
    """What keeps more bytes from being written to a scratch file, or into a scratch folder."""
    file = partial / "more" if partial.is_dir() else partial
    try:
        with file.open("ab") as stream:
            stream.write(bytes(_PROBE_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return error
    return None
