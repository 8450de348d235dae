"""Decoding of stored pixels; compressed pixels are decoded in a separate process.

On damaged files some decoders throw uncaught C++ exceptions, and pydicom's search for the start of
a codestream may never end. If a separate process crashes or hangs, the run continues.

`concurrent.futures.ProcessPoolExecutor` would be less code. But its processes (spawn or forkserver)
import the caller's `__main__` again, which breaks scripts without a guard and scripts from standard
input; they outlive a caller that is killed; and before Python 3.14 a process that hangs cannot be
ended.
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
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.pixels.utils import iter_pixels

from wsseg.imaging.dicom.file import can_decode, integer, is_compressed, value_of
from wsseg.imaging.limits import DEFAULT_LIMITS, ReadLimits
from wsseg.imaging.stopping import check_not_stopped, end_process

_BYTE = 8
# How often a thread that waits for a decoder looks whether it is still wanted.
_LOOK_SECONDS = 0.1
_PIXEL_GROUP = 0x0028
# Bits allocated to the first overlay: 1, or those of a pixel if it is stored in the pixels' bits.
OVERLAY_BITS = 0x60000100
_MODULE = "wsseg.imaging.dicom.decoder_worker"

Stored = NDArray[np.integer[Any] | np.floating[Any]]

_own = threading.local()


class DecoderCrashedError(RuntimeError):
    """The decoding process crashed."""


class DecoderTimeoutError(RuntimeError):
    """The decoding process needed too long, and was killed; its argument is how many seconds."""


class DecoderRefusedError(RuntimeError):
    """The decoder cannot read the file, and is ready for the next one; its argument is the name of
    what it raised."""


@dataclass(frozen=True)
class _Job:
    """What to decode: `count` frames of a file, those of ascending indices `frames` or the first.

    frame_bytes: of one decoded frame. seconds: after which the decoder is taken to hang.
    """

    path: Path
    count: int
    frames: Sequence[int] | None
    frame_bytes: int
    seconds: float


class _Worker:
    """A child process that decodes files on request; each thread has its own."""

    def __init__(self) -> None:
        child_requests, self._requests = Pipe(duplex=False)
        self._answers, child_answers = Pipe(duplex=False)
        with child_requests, child_answers:
            # -P: a folder in the working directory may be named like a library.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, str(os.getpid())],
                stdin=child_requests.fileno(),
                stdout=child_answers.fileno(),
            )
        self.parent = os.getpid()
        self.stop = weakref.finalize(
            self, _stop, process, (self._requests, self._answers), self.parent
        )

    def decode(self, job: _Job) -> Iterator[Stored]:
        deadline = time.monotonic() + job.seconds
        request = {
            "path": str(job.path.absolute()),
            "count": job.count,
            "frames": job.frames,
            "frame_bytes": job.frame_bytes,
        }
        try:
            self._requests.send_bytes(json.dumps(request).encode())
            for _ in range(job.count):
                while not self._answers.poll(_LOOK_SECONDS):
                    check_not_stopped()
                    if time.monotonic() > deadline:
                        raise DecoderTimeoutError(job.seconds)
                yield _frame(self._answers)
        except (EOFError, OSError) as error:
            raise DecoderCrashedError from error


def decode_frames(
    dataset: FileDataset,
    path: Path,
    count: int,
    frames: Sequence[int],
    *,
    limits: ReadLimits = DEFAULT_LIMITS,
) -> Iterator[Stored]:
    """The stored values of `frames`, ascending indices below `count`: (row, column[, 3]).

    YBR colours are converted to RGB. `dataset` was read from the file `path`, perhaps without its
    pixels. Raises DecoderRefusedError, or DecoderCrashedError or DecoderTimeoutError if the decoder
    crashes or hangs; none affects files decoded later. Raises NotImplementedError for a compression
    that no installed decoder supports, and what pydicom raises for damaged uncompressed pixels.
    """
    selected = None if len(frames) == count else list(frames)
    syntax = dataset.file_meta.TransferSyntaxUID
    if is_compressed(syntax):
        if not can_decode(syntax):
            raise NotImplementedError(syntax)
        samples = dataset.Rows * dataset.Columns * (integer(dataset, "SamplesPerPixel") or 1)
        nbytes = samples * max(1, dataset.BitsAllocated // _BYTE)
        seconds = limits.patience(nbytes * len(frames))
        return _decode_in_process(_Job(path, len(frames), selected, nbytes, seconds))
    stored = _uncompressed(dataset, path, frames)
    shift = _shift(dataset)
    return (_aligned(frame, dataset, shift) for frame in stored) if shift else stored


def _uncompressed(dataset: FileDataset, path: Path, frames: Sequence[int]) -> Iterator[Stored]:
    deferred = deferred_element(dataset, "PixelData")
    little_endian = dataset.file_meta.TransferSyntaxUID.is_little_endian
    if deferred and little_endian and dataset.BitsAllocated >= _BYTE:
        return _from_file(dataset, deferred, path, frames)
    if dataset.BitsAllocated == 1 and dataset.Rows * dataset.Columns % _BYTE:
        shape = (dataset.Rows, dataset.Columns)
        return (unpacked_frame(dataset.PixelData, shape, index) for index in frames)
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        # pydicom 3.0.2 reads frames after the first as if their chroma were not subsampled.
        return (plane for index in frames for plane in iter_pixels(dataset, indices=[index]))
    return iter_pixels(dataset, indices=frames, correct_unused_bits=not _shift(dataset))


def unpacked_frame(packed: bytes, shape: tuple[int, int], index: int) -> NDArray[np.uint8]:
    """A frame (row, column) of one bit per pixel, of frames not padded to bytes (PS3.5, 8.1.1).

    pydicom 3.0.2 reads a byte too few of a frame that begins and ends within a byte. Raises
    ValueError where the frame is not there as a whole.
    """
    start, count = index * math.prod(shape), math.prod(shape)
    content = packed[start // _BYTE : math.ceil((start + count) / _BYTE)]
    pixels = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
    return pixels[start % _BYTE :][:count].reshape(shape)


def _shift(dataset: FileDataset) -> int:
    """Number of unused bits below a value; the current standard allows none."""
    high, bits, allocated = (
        integer(dataset, keyword) for keyword in ("HighBit", "BitsStored", "BitsAllocated")
    )
    if high is None or not bits or not allocated:
        return 0
    shift = high + 1 - bits
    return shift if 0 < shift <= allocated - bits else 0


def _aligned(stored: Stored, dataset: FileDataset, shift: int) -> Stored:
    """Values of a frame that should be stored `shift` bits up, by its header.

    Some software writes a high bit that its values do not reach. Values are taken from the lowest
    bits if bits are set there, none is set above them, and no overlay is stored in the pixels.
    """
    bits = int(dataset.BitsStored)
    plain = stored.view(f"u{stored.dtype.itemsize}").astype(np.int64)
    overlay = value_of(dataset, OVERLAY_BITS) not in (None, 1)
    low = bool((plain & ((1 << shift) - 1)).any())
    at_bottom = low and not overlay and not (plain >> bits).any()
    values = (plain if at_bottom else plain >> shift) & ((1 << bits) - 1)
    sign = 1 << (bits - 1) if stored.dtype.kind == "i" else 0
    aligned: Stored = ((values ^ sign) - sign).astype(stored.dtype)
    return aligned


def deferred_element(dataset: FileDataset, keyword: str) -> RawDataElement | None:
    """The element if its value was too large to read with the header and is still in the file."""
    if keyword not in dataset:
        return None
    element: object = dataset.get_item(keyword, keep_deferred=True)
    return element if isinstance(element, RawDataElement) and element.value is None else None


def _from_file(
    dataset: FileDataset, pixels: RawDataElement, path: Path, frames: Sequence[int]
) -> Iterator[Stored]:
    """Uncompressed frames, read from the file one at a time."""
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


def _decode_in_process(job: _Job) -> Iterator[Stored]:
    worker = getattr(_own, "worker", None)
    if worker is None or worker.parent != os.getpid():  # pipes are not shared with a forked process
        worker = _own.worker = _Worker()
    left = job.count
    try:
        for frame in worker.decode(job):
            left -= 1
            yield frame
    except DecoderRefusedError:
        left = 0
        raise
    finally:
        if left:
            # The process may be dead, or its pipe still hold frames: the next file gets a new one.
            _own.worker = None
            worker.stop()


def _frame(answers: Connection) -> Stored:
    # JSON and bytes, never pickles: a malicious file may control the process that sends them, and
    # to unpickle is to execute code.
    answer = json.loads(answers.recv_bytes())
    if "error" in answer:
        raise DecoderRefusedError(answer["error"])
    content = answers.recv_bytes()
    return np.frombuffer(content, np.dtype(answer["dtype"])).reshape(answer["shape"])


def _stop(
    process: subprocess.Popen[bytes], pipes: tuple[Connection, Connection], parent: int
) -> None:
    end_process(process, parent)
    for pipe in pipes:
        pipe.close()
