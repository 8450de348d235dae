"""Stored pixels, decoded: compressed ones in a process of their own.

On damaged files some decoders throw C++ exceptions that nobody catches, and pydicom's search for
the start of a codestream may never end. A process apart may crash or hang; the run goes on.

`concurrent.futures.ProcessPoolExecutor` would be less code, but its processes import the caller's
`__main__` again, so a script without a guard breaks, as does one that comes from standard input;
they outlive a caller that is killed; and before Python 3.14 one that hangs cannot be ended.
"""

import json
import math
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.pixels.utils import iter_pixels

from wsseg.imaging.dicom.file import can_decode, is_compressed
from wsseg.imaging.dicom.values import integer, value_of

# A decoder that needs longer than this for a file, and as long for each of its frames, hangs.
PATIENCE_SECONDS = 60.0
FRAME_SECONDS = 2.0
_BYTE = 8
_PIXEL_GROUP = 0x0028
# Bits allocated to the first overlay: 1, or those of a pixel in which it is kept as well.
OVERLAY_BITS = 0x60000100
_MODULE = "wsseg.imaging.dicom.decoder_worker"

Stored = NDArray[np.integer[Any] | np.floating[Any]]

_own = threading.local()


class DecoderCrashedError(RuntimeError):
    """The decoding process died or had to be killed."""


class DecoderRefusedError(RuntimeError):
    """The decoder cannot read the file; it is ready for the next one."""


class _Worker:
    """A running child process that decodes files on request; one for each thread."""

    def __init__(self) -> None:
        its_requests, self._requests = Pipe(duplex=False)
        self._answers, its_answers = Pipe(duplex=False)
        with its_requests, its_answers:
            # -P: a folder of the user's that is called like a library must not be imported.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE],
                stdin=its_requests.fileno(),
                stdout=its_answers.fileno(),
            )
        self.parent = os.getpid()
        self.stop = weakref.finalize(
            self, _stop, process, (self._requests, self._answers), self.parent
        )

    def decode(self, path: Path, frames: Sequence[int] | None, count: int) -> Iterator[Stored]:
        deadline = time.monotonic() + PATIENCE_SECONDS + FRAME_SECONDS * count
        request = {"path": str(path.absolute()), "count": count, "frames": frames}
        try:
            self._requests.send_bytes(json.dumps(request).encode())
            for _ in range(count):
                if not self._answers.poll(max(0, deadline - time.monotonic())):
                    raise DecoderCrashedError
                yield _frame(self._answers)
        except (EOFError, OSError) as error:
            raise DecoderCrashedError from error


def decode_frames(
    dataset: FileDataset, path: Path, count: int, frames: Sequence[int]
) -> Iterator[Stored]:
    """The `frames` of `count`, ascending, as stored: (row, column[, 3]); YBR becomes RGB.

    `dataset` was read from the file `path`; its pixels may have been left there. Raises
    DecoderRefusedError, or DecoderCrashedError if the decoder dies or hangs, neither of which harms
    what is decoded next; NotImplementedError for a compression that no installed decoder knows;
    what pydicom raises for damaged uncompressed pixels.
    """
    some = None if len(frames) == count else list(frames)
    syntax = dataset.file_meta.TransferSyntaxUID
    if is_compressed(syntax):
        if not can_decode(syntax):
            raise NotImplementedError(syntax)
        return _decode_apart(path, some, len(frames))
    stored = _uncompressed(dataset, path, frames)
    shift = _shift(dataset)
    return (_aligned(frame, dataset, shift) for frame in stored) if shift else stored


def _uncompressed(dataset: FileDataset, path: Path, frames: Sequence[int]) -> Iterator[Stored]:
    left = left_in_file(dataset, "PixelData")
    little_endian = dataset.file_meta.TransferSyntaxUID.is_little_endian
    if left and little_endian and dataset.BitsAllocated >= _BYTE:
        return _from_file(dataset, left, path, frames)
    if dataset.BitsAllocated == 1 and dataset.Rows * dataset.Columns % _BYTE:
        return _of_bits(dataset, frames)
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        # pydicom 3.0.2 takes every frame after the first of such a run for one of full chroma.
        return (plane for index in frames for plane in iter_pixels(dataset, indices=[index]))
    return iter_pixels(dataset, indices=frames, correct_unused_bits=not _shift(dataset))


def _of_bits(dataset: FileDataset, frames: Sequence[int]) -> Iterator[Stored]:
    """Frames of one bit a pixel, which follow each other bit by bit (PS3.5, 8.1.1).

    pydicom 3.0.2 takes a byte too few of a frame that begins and ends within one.
    """
    rows, columns = dataset.Rows, dataset.Columns
    for index in frames:
        first, beyond = index * rows * columns, (index + 1) * rows * columns
        held = dataset.PixelData[first // _BYTE : math.ceil(beyond / _BYTE)]
        pixels = np.unpackbits(np.frombuffer(held, np.uint8), bitorder="little")
        yield pixels[first % _BYTE :][: rows * columns].reshape(rows, columns)


def _shift(dataset: FileDataset) -> int:
    """How many bits the header leaves free below a value: none by the standard of today."""
    high, bits, allocated = (
        integer(dataset, keyword) for keyword in ("HighBit", "BitsStored", "BitsAllocated")
    )
    if high is None or not bits or not allocated:
        return 0
    shift = high + 1 - bits
    return shift if 0 < shift <= allocated - bits else 0


def _aligned(stored: Stored, dataset: FileDataset, shift: int) -> Stored:
    """Values of a frame whose header places them `shift` bits up, if that is where they are.

    Careless software writes a high bit that its values do not reach. They are taken from below
    where no bit above is set and bits are set below, in which no overlay is kept.
    """
    bits = int(dataset.BitsStored)
    plain = stored.view(f"u{stored.dtype.itemsize}").astype(np.int64)
    overlay = value_of(dataset, OVERLAY_BITS) not in (None, 1)
    low = bool((plain & ((1 << shift) - 1)).any())
    from_below = low and not overlay and not (plain >> bits).any()
    values = (plain if from_below else plain >> shift) & ((1 << bits) - 1)
    sign = 1 << (bits - 1) if stored.dtype.kind == "i" else 0
    aligned: Stored = ((values ^ sign) - sign).astype(stored.dtype)
    return aligned


def left_in_file(dataset: FileDataset, keyword: str) -> RawDataElement | None:
    """The head of an element whose value was too large to be read with the others."""
    if keyword not in dataset:
        return None
    element: object = dataset.get_item(keyword, keep_deferred=True)
    return element if isinstance(element, RawDataElement) and element.value is None else None


def _from_file(
    dataset: FileDataset, pixels: RawDataElement, path: Path, frames: Sequence[int]
) -> Iterator[Stored]:
    """Uncompressed frames, each read from its place in the file, so that one is in memory."""
    alone = dataset.group_dataset(_PIXEL_GROUP)
    alone.file_meta = dataset.file_meta
    alone.NumberOfFrames = 1
    size = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated // _BYTE
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        size = size * 2 // 3
    with path.open("rb") as file:
        for index in frames:
            file.seek(pixels.value_tell + index * size)
            alone.PixelData = file.read(size)
            yield from iter_pixels(alone, correct_unused_bits=not _shift(dataset))


def _decode_apart(path: Path, frames: Sequence[int] | None, count: int) -> Iterator[Stored]:
    worker = getattr(_own, "worker", None)
    if worker is None or worker.parent != os.getpid():  # a forked process shares no pipes
        worker = _own.worker = _Worker()
    left = count
    try:
        for frame in worker.decode(path, frames, count):
            left -= 1
            yield frame
    except DecoderRefusedError:
        left = 0
        raise
    finally:
        if left:
            # Answers may be left in the pipe, or nobody to give them: the next file starts anew.
            _own.worker = None
            worker.stop()


def _frame(answers: Connection) -> Stored:
    # Bytes, for to unpickle what a process sends that a damaged file may have taken over is to
    # run what it wishes.
    answer = json.loads(answers.recv_bytes())
    if "error" in answer:
        raise DecoderRefusedError(answer["error"])
    content = answers.recv_bytes()
    return np.frombuffer(content, np.dtype(answer["dtype"])).reshape(answer["shape"])


def _stop(
    process: subprocess.Popen[bytes], pipes: tuple[Connection, Connection], parent: int
) -> None:
    if parent == os.getpid():  # a forked process must not end the worker it inherited
        process.kill()
        process.wait()
    else:
        process.returncode = 0  # or Popen would warn that a process not its own still runs
    for pipe in pipes:
        pipe.close()
