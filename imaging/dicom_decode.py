"""Decoders for compressed pixels: the safe ones here, the one that may crash in a process apart."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels

from wsseg.imaging.dicom_apart import decode_apart

Stored = NDArray[np.integer[Any] | np.floating[Any]]

# GDCM throws C++ exceptions that nobody catches on some damaged files, and they end the process.
# It is the only permissively licensed decoder of JPEG Lossless, so it cannot be left out.
UNSAFE = "gdcm"


def decode_frames(dataset: FileDataset, path: Path, count: int) -> Iterator[Stored]:
    """The first `count` frames as stored, (row, column) or (row, column, 3); YBR becomes RGB.

    `dataset` was read from the file `path`. Of the decoders of a compressed syntax the first one
    that can read the first frame reads them all. Raises whatever the decoders raise.
    """
    return islice(_frames(dataset, path, count), count)


def _frames(dataset: FileDataset, path: Path, count: int) -> Iterator[Stored]:
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        return iter_pixels(dataset)
    plugins = get_decoder(syntax).available_plugins
    failure: Exception = NotImplementedError(syntax.name)
    for plugin in plugins:
        if plugin == UNSAFE:
            continue
        frames = iter_pixels(dataset, decoding_plugin=plugin)
        try:
            first = next(frames)
        except Exception as error:  # decoders raise many kinds, and another one may succeed
            failure = error
        else:
            return chain([first], frames)
    if UNSAFE in plugins:
        return decode_apart(path, UNSAFE, count)
    raise failure
