"""What reading may take: bytes in memory, bytes unpacked, numbers of parts, and time.

All sizes are known from headers before anything is inflated or allocated, and are checked there.
"""

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from wsseg.imaging.errors import ReadError

MIB = 1 << 20

# As Pillow: larger slices come from damage or malice, and each stage holds several copies.
SLICE_PIXELS = 89_478_485
# Deflate reaches 1032:1 on zeros, scans rarely 10:1. The ratio of small contents is not checked: an
# empty label map of a whole CT compresses a thousandfold and is harmless.
RATIO = 200
RATIO_FLOOR_BYTES = 64 * MIB
# The same for pixels, which as float32 take four times as much as they do in 8 bits.
GROWTH = 500
GROWTH_FLOOR_BYTES = 256 * MIB
# A long scan of multi-frame DICOM is not held in memory, but decoded once to check it.
LONG_SCAN_FACTOR = 16
# Of a DICOM header, the functional groups of all its frames included; and how often pydicom may
# read: two or three times for each element, before the groups of frames and in each of them.
HEADER_BYTES = 64 * MIB
HEADER_READS = 100_000
FRAME_READS = 1000
FRAME_HEADER_READS = 5_000_000
# The slowest decoder needs a tenth of this; a machine may be busy.
SECONDS_PER_MB = 0.5


@dataclass(frozen=True)
class ReadLimits:
    """The limits of one run, each an option of wsseg-infer.

    scan_bytes: pixels of a scan as float32; those of a multi-frame DICOM object, of which only some
    slices are in memory, may take 16 times as much. inflated_bytes: what an archive, a packed file
    or a deflated DICOM file may unpack to. frames: slices of one file. entries: files in one
    archive. seconds: time to decode a compressed DICOM file, besides half a second for each decoded
    MB.
    """

    scan_bytes: int = 4096 * MIB
    inflated_bytes: int = 4096 * MIB
    frames: int = 65_536
    entries: int = 100_000
    seconds: float = 20.0

    def may_inflate(self, packed: int) -> int:
        """How many bytes a file of `packed` bytes may unpack to."""
        return min(self.inflated_bytes, max(RATIO_FLOOR_BYTES, RATIO * packed))

    def patience(self, nbytes: int) -> float:
        """Seconds after which a decoder of `nbytes` of pixels is taken to hang."""
        return self.seconds + SECONDS_PER_MB * nbytes / MIB

    def check_slice(self, rows: int, columns: int, source: str) -> None:
        """Raise ReadError for a slice of more pixels than any scanner writes."""
        if rows * columns > SLICE_PIXELS:
            raise ReadError(
                "too_large",
                f"{source} has slices of {rows} x {columns} pixels, at most {SLICE_PIXELS} pixels "
                "a slice are read: crop it or make it smaller",
            )

    def check_scan(self, nbytes: int, source: str, *, held: bool = True) -> None:
        """Raise ReadError for a scan whose pixels take more bytes as float32 than allowed.

        held: whether all of them are in memory at once.
        """
        most = self.scan_bytes * (1 if held else LONG_SCAN_FACTOR)
        if nbytes > most:
            raise ReadError(
                "too_large",
                f"{source} has {shown_mib(nbytes)} of pixels, at most {shown_mib(most)} are read: "
                f"crop or split it, or raise --max-scan-mb",
            )

    def check_frames(self, count: int, source: str) -> None:
        """Raise ReadError for a file of more slices than allowed."""
        if count > self.frames:
            raise ReadError(
                "too_many_frames",
                f"{source} has {count} slices, at most {self.frames} of a file are read: split it, "
                "or raise --max-frames",
            )

    def check_growth(self, nbytes: int, stored: int, source: str) -> None:
        """Raise ReadError for pixels that take far more bytes, as float32, than their file.

        stored: size of the file, or of its compressed pixels.
        """
        if nbytes > max(GROWTH_FLOOR_BYTES, GROWTH * stored):
            raise ReadError(
                "inflates",
                f"{source} would grow from {shown_mib(stored)} to {shown_mib(nbytes)}, more "
                f"than {GROWTH}-fold: save it without compression if you trust it",
            )


class Room:
    """Bytes that several threads share: each waits until what it will take fits.

    What is larger than all of it is taken alone.
    """

    def __init__(self, nbytes: int) -> None:
        self._most = nbytes
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, nbytes: int) -> Iterator[None]:
        """Take so many bytes for the block. A thread must not take twice."""
        nbytes = min(nbytes, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._taken + nbytes <= self._most)
            self._taken += nbytes
        try:
            yield
        finally:
            with self._changed:
                self._taken -= nbytes
                self._changed.notify_all()


def release_memory() -> None:
    """Give freed memory back to the system: the allocator of Linux keeps some for each thread."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


def shown_mib(nbytes: int) -> str:
    """A number of bytes in MiB, for people."""
    return f"{nbytes / MIB:.3g} MiB" if nbytes < 1000 * MIB else f"{nbytes // MIB} MiB"


DEFAULT_LIMITS = ReadLimits()
"""The limits of training and of all commands without options for them."""
