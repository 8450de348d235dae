"""The process in which decoders run that may crash: paths come in, frames go out.

Requests are lines of JSON, {"path", "plugin", "count"}. Each of `count` frames is answered by a
line {"dtype", "shape"} and its bytes; a file that cannot give them by {"error"}, the kind of the
exception. The process ends when its input does.
"""

import json
import os
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydicom.pixels.utils import iter_pixels

from wsseg.imaging.dicom_file import open_dicom
from wsseg.imaging.dicom_quiet import quiet
from wsseg.imaging.dicom_values import tags_of

_TAGS = tags_of(
    (
        *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
        *("PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
        *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData"),
    )
)


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Decoders write to the terminal past Python; here nobody may hear them.
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(silence, stream.fileno())
    with quiet:
        for line in sys.stdin.buffer:
            request = json.loads(line)
            try:
                _answer(request, answers)
            except Exception as error:  # decoders raise many kinds on damaged files
                _say(answers, {"error": type(error).__name__})


def _answer(request: dict[str, Any], answers: IO[bytes]) -> None:
    path = Path(request["path"])
    dataset, _ = open_dicom(path, path.name, tags=_TAGS)
    frames = iter_pixels(dataset, decoding_plugin=request["plugin"])
    for _ in range(request["count"]):
        frame = next(frames)
        _say(answers, {"dtype": frame.dtype.str, "shape": frame.shape})
        answers.write(np.ascontiguousarray(frame).data)
        answers.flush()


def _say(answers: IO[bytes], answer: dict[str, object]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
