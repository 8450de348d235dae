"""The process in which decoders run and may crash: it receives paths and sends frames.

Standard input and output are pipes of `multiprocessing.connection`, whose messages are JSON. A
request is {"path", "count", "frames", "frame_bytes"}: the first `count` frames, or the `count`
frames whose ascending indices, from 0, are in `frames`, and the bytes of one of them by the header.
The answer for each frame is {"dtype", "shape"}, then a message with its bytes; if the file cannot
be decoded it is {"error"}, the type of the exception. The process exits when its input is closed,
and with its parent, whose id is its argument.
"""

import ctypes
import json
import os
import signal
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import chain, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import ExplicitVRLittleEndian

from wsseg.imaging.dicom.file import (
    DEFLATED_FRAMES,
    ENCAPSULATED_UNCOMPRESSED,
    JPEG_EXTENDED,
    JPEG_XL,
    OWN,
    open_dicom,
    silence_pydicom,
    tags_of,
)
from wsseg.imaging.files import version_of

_TAGS = tags_of(
    (
        *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
        *("PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
        *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData"),
    )
)

# In order of speed, but GDCM last, because some damaged files crash it. It is the only
# permissively licensed decoder of JPEG Lossless.
_PREFERENCE = ("pylibjpeg", "pyjpegls", "pillow", "pydicom", "gdcm")


# What a decoder may take besides so many copies of the frame: decoders of JPEG 2000 compute in
# 32 bits, and a codestream may claim to be far larger than the header of its file states.
_SPARE_BYTES = 1 << 29
_COPIES = 10
_PARENT_DEATH_SIGNAL = 1  # of prctl: PR_SET_PDEATHSIG
_LOOK_SECONDS = 1.0


def main() -> None:
    """Answer requests until the input is closed."""
    end_with(int(sys.argv[1]))
    requests = Connection(os.dup(sys.stdin.fileno()), writable=False)
    answers = Connection(os.dup(sys.stdout.fileno()), readable=False)
    # Decoders write to the file descriptors directly; discard what they print.
    discard = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(discard, stream.fileno())
    with silence_pydicom, suppress(EOFError, BrokenPipeError):
        while True:
            request = json.loads(requests.recv_bytes())
            try:
                _answer(request, answers)
            except Exception as error:  # decoders raise many types on damaged files
                answers.send_bytes(json.dumps({"error": type(error).__name__}).encode())


def end_with(parent: int) -> None:
    """Let this process be killed when its parent ends, however that ends.

    A decoder that loops never looks at its input, and may never let another thread run.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before it could be asked for
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


def _limit_memory(nbytes: int) -> None:
    """Limit the address space to what is used now and so much more, where the system can."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * os.sysconf("SC_PAGESIZE") + nbytes
    resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))


def _answer(request: dict[str, Any], answers: Connection) -> None:
    path, left = Path(request["path"]), request["count"]
    size = path.stat().st_size
    _limit_memory(_SPARE_BYTES + 2 * size + _COPIES * request["frame_bytes"])
    dataset = _opened(path, version_of(path))
    for frame in islice(_frames(dataset, request["frames"]), request["count"]):
        answers.send_bytes(json.dumps({"dtype": frame.dtype.str, "shape": frame.shape}).encode())
        answers.send_bytes(np.ascontiguousarray(frame).reshape(-1).view(np.uint8).data)
        left -= 1
    if left:
        raise EOFError


# A few frames of a long file are requested at a time.
@lru_cache(maxsize=1)
def _opened(path: Path, _version: tuple[int, int]) -> FileDataset:
    return open_dicom(path, path.name, tags=_TAGS)[0]


def _frames(dataset: FileDataset, indices: list[int] | None) -> Iterator[NDArray[Any]]:
    """The frames at `indices`, or all, from the first decoder that can read the first of them."""
    if dataset.file_meta.TransferSyntaxUID in OWN:
        return _own_frames(dataset, indices)
    plugins = get_decoder(dataset.file_meta.TransferSyntaxUID).available_plugins
    failure: Exception = NotImplementedError()
    for plugin in sorted(plugins, key=_PREFERENCE.index):
        frames = iter_pixels(dataset, indices=indices, decoding_plugin=plugin)
        try:
            first = next(frames)
        except Exception as error:  # of many types; another decoder may succeed
            failure = error
        else:
            return chain([first], frames)
    if dataset.file_meta.TransferSyntaxUID == JPEG_EXTENDED:
        return _own_frames(dataset, indices)  # 12 bits, which no plugin of pydicom reads
    raise failure


def _own_frames(dataset: FileDataset, indices: list[int] | None) -> Iterator[NDArray[Any]]:
    """Frames in encodings that pydicom 3.0 has no decoder for."""
    syntax = dataset.file_meta.TransferSyntaxUID
    count = int(dataset.get("NumberOfFrames") or 1)
    alone = dataset.group_dataset(0x0028)
    alone.NumberOfFrames = 1
    alone.file_meta = FileMetaDataset()
    alone.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for index, frame in enumerate(generate_frames(dataset.PixelData, number_of_frames=count)):
        if indices is not None and index not in indices:
            continue
        alone.PixelData = _plain(frame, syntax, alone)
        alone["PixelData"].VR = "OB"
        yield from iter_pixels(alone)


def _plain(frame: bytes, syntax: str, image: Dataset) -> bytes:
    """Pixels as an uncompressed file would store them; `image` describes them."""
    import imagecodecs

    if syntax == ENCAPSULATED_UNCOMPRESSED:
        return frame
    if syntax == DEFLATED_FRAMES:
        return _inflated(frame, image)
    colour = image.SamplesPerPixel == 3
    if syntax in JPEG_XL:
        pixels: NDArray[Any] = imagecodecs.jpegxl_decode(frame)
    elif colour:
        raise NotImplementedError
    else:
        pixels = imagecodecs.jpeg_decode(frame)
    if colour:
        image.PhotometricInterpretation = "RGB"
        image.PlanarConfiguration = 0
    return pixels.astype(f"<u{image.BitsAllocated // 8}", casting="safe").tobytes()


def _inflated(frame: bytes, image: Dataset) -> bytes:
    """An inflated frame, of at most as many bytes as the header states."""
    bits = image.Rows * image.Columns * image.SamplesPerPixel * image.BitsAllocated
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, -(-bits // 8))


if __name__ == "__main__":
    main()
