"""Stored pixels of one DICOM object as physical values or RGB, frame by frame."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import UID

from wsseg.imaging.dicom.decoder import Stored, decode_frames, deferred_element
from wsseg.imaging.dicom.file import integer, is_compressed, items, number, numbers, text
from wsseg.imaging.dicom.palette import palette_of
from wsseg.imaging.dicom.rescale import Rescale
from wsseg.imaging.dicom.sop_classes import is_measured, is_x_ray
from wsseg.imaging.errors import ReadError
from wsseg.imaging.limits import ReadLimits
from wsseg.imaging.scan import FileRef

Pixels = NDArray[np.float32]

# A compressed frame has the head of its fragment, and at least two bytes.
_LEAST_FRAME_BYTES = 10
_EIGHT_BIT = 255
_MOST_ENTRIES = 1 << 16  # of a lookup table
# How keywords of floating point values begin, by their size in bytes.
_FLOAT_KINDS = {4: "Float", 8: "DoubleFloat"}
# Units of a radiograph (PS3.3 C.11.1.1.2). Other values of RescaleType describe its processing
# (LOG_E REL, NORMALIZED), or are the optical density of a film: bones are bright once inverted.
_UNITS_OF_X_RAY = frozenset({"HU", "HU_MOD", "MGML", "PCT", "Z_EFF", "ED", "EDW"})
_OPTICAL_DENSITY = "OD"
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True)
class Layout:
    """The pixel grid that a header states. bits: of one stored sample."""

    rows: int
    columns: int
    frames: int
    samples: int
    bits: int
    photometric: str

    @property
    def colour(self) -> bool:
        """True where a frame becomes (row, column, 3)."""
        return self.samples == 3 or self.photometric == "PALETTE COLOR"

    @property
    def shape(self) -> tuple[int, ...]:
        """(frame, row, column[, 3]) of all frames."""
        return (self.frames, self.rows, self.columns, *((3,) if self.colour else ()))

    @property
    def plane_bytes(self) -> int:
        """Bytes of one frame as float32."""
        return self.rows * self.columns * (3 if self.colour else 1) * 4

    @property
    def stored_bytes(self) -> int:
        """Bytes of all frames, uncompressed, at least."""
        bits = self.rows * self.columns * self.samples * self.bits * self.frames
        # Chroma at half resolution stores two samples a pixel instead of three.
        return bits // 8 * 2 // 3 if self.photometric == "YBR_FULL_422" else bits // 8


def read_layout(dataset: FileDataset, file: FileRef, limits: ReadLimits) -> Layout:
    """The grid, checked against the file and the limits before anything is allocated.

    Raises ReadError.
    """
    source = file.source
    frames = integer(dataset, "NumberOfFrames") if "NumberOfFrames" in dataset else 1
    stated = {
        "Rows": integer(dataset, "Rows"),
        "Columns": integer(dataset, "Columns"),
        "BitsAllocated": integer(dataset, "BitsAllocated"),
        "NumberOfFrames": frames or 1,
        "SamplesPerPixel": integer(dataset, "SamplesPerPixel") or 1,
    }
    for keyword, value in stated.items():
        if value is None or value <= 0:
            what = f"its header gives no usable {keyword}"
            raise ReadError("broken_header", f"{source} is damaged, {what}: export it again")
    rows, columns, bits, count, samples = (value or 0 for value in stated.values())
    photometric = text(dataset, "PhotometricInterpretation")
    layout = Layout(rows, columns, count, samples, bits, photometric)
    if layout.bits not in (1, 8, 16, 32, 64):
        raise ReadError(
            "unsupported_bits",
            f"{source} packs {layout.bits} bits a pixel, as retired standards did: convert it to "
            "16 bits first, e.g. with gdcmconv",
        )
    if layout.samples not in (1, 3):
        raise ReadError(
            "unsupported_colour",
            f"{source} has {layout.samples} values a pixel, grey or RGB was expected: convert it",
        )
    stored = _stored_bytes(dataset, file.path)
    if not stored:
        raise ReadError("no_pixels", f"{source} has a header but no pixels: export it again")
    compressed = is_compressed(dataset.file_meta.TransferSyntaxUID)
    least = layout.frames * _LEAST_FRAME_BYTES if compressed else layout.stored_bytes
    if stored < least:
        raise ReadError(
            "truncated",
            f"{source} holds {stored} bytes of pixels, its header promises "
            f"{'at least ' if compressed else ''}{least}: copy or export it again",
        )
    limits.check_slice(layout.rows, layout.columns, source)
    limits.check_frames(layout.frames, source)
    limits.check_scan(layout.plane_bytes * layout.frames, source, held=False)
    if compressed:
        limits.check_growth(layout.plane_bytes * layout.frames, stored, source)
    return layout


def _stored_bytes(dataset: FileDataset, path: Path) -> int:
    """Bytes of pixels in the file, whether they were read already or deferred."""
    for keyword in PIXEL_KEYWORDS:
        if left := deferred_element(dataset, keyword):
            return min(left.length, path.stat().st_size - left.value_tell)
        if keyword in dataset:
            return len(dataset[keyword].value or b"")
    return 0


class ObjectPixels:
    """The frames of one object as planes (row, column[, 3]) float32, decoded on request.

    Grey values are rescaled or looked up; those made to be looked at are inverted where they are
    MONOCHROME1, within the range of the stored values or of the table; padding is replaced by the
    lowest real value of its frame. RGB and palette colours become 0..255. shape: of all frames.
    rescales: by index, of the frames that will be requested. flags: about how the planes so far
    were made.
    """

    def __init__(
        self,
        dataset: FileDataset,
        layout: Layout,
        rescales: Mapping[int, Rescale],
        file: FileRef,
        limits: ReadLimits,
    ) -> None:
        self._dataset = dataset
        self._limits = limits
        self._rescales = rescales
        self._path = file.path
        self.syntax: UID = dataset.file_meta.TransferSyntaxUID
        self._paint: Callable[[Stored], Pixels] | None = None
        self.shape = layout.shape
        self.flags: set[str] = set()
        if layout.colour:
            self._paint, depth = _painter(dataset, layout)
            if depth > 8:
                self.flags.add("SCALED_TO_8_BIT")

    def planes(self, frames: Sequence[int]) -> Iterator[Pixels]:
        """The planes of `frames`, by index from 0, ascending.

        Raises what `decode_frames` raises, and ValueError and EOFError for frames of another shape
        or number than the header states.
        """
        stored_frames = decode_frames(
            self._dataset, self._path, self.shape[0], frames, limits=self._limits
        )
        done = 0
        for index, stored in zip(frames, stored_frames, strict=False):
            if stored.shape[:2] != self.shape[1:3]:
                raise ValueError
            yield self._paint(stored) if self._paint else self._grey(stored, self._rescales[index])
            done += 1
        if done < len(frames):
            raise EOFError

    def _grey(self, stored: Stored, rescale: Rescale) -> Pixels:
        inverse = _shown_inverted(self._dataset, rescale)
        if inverse:
            self.flags.add("MONOCHROME1")
        padding = _padding(stored, self._dataset)
        if items(self._dataset, "ModalityLUTSequence"):
            pixels = _looked_up(stored, self._dataset, inverse=inverse)
        else:
            values = _inverted(stored, self._dataset) if inverse else stored
            pixels = values.astype(np.float32)
            pixels *= np.float32(rescale.slope)
            pixels += np.float32(rescale.intercept)
        if padding is not None and padding.any() and not padding.all():
            pixels[padding] = pixels[~padding].min()
            self.flags.add("PADDING_REPLACED")
        return pixels


def _shown_inverted(dataset: Dataset, rescale: Rescale) -> bool:
    """Whether values are inverted so that bright means much, as a viewer would show them.

    MONOCHROME1 describes how an image is shown, not what was measured: a radiograph or a capture is
    made to be looked at, but a measured quantity, or one with a unit, stays as it is.
    """
    if text(dataset, "PhotometricInterpretation") != "MONOCHROME1":
        return False
    sop_class, modality = text(dataset, "SOPClassUID"), text(dataset, "Modality")
    if is_x_ray(sop_class, modality):
        return rescale.unit not in _UNITS_OF_X_RAY
    has_unit = rescale.unit not in ("", _OPTICAL_DENSITY)
    return not has_unit and not is_measured(sop_class, modality)


def _inverted(stored: Stored, dataset: Dataset) -> Stored:
    """Mirror values within the range of their stored bits, so that bright means much."""
    if stored.dtype.kind == "f":
        return np.negative(stored)
    bits = integer(dataset, "BitsStored") or stored.dtype.itemsize * 8
    ends = -1 if stored.dtype.kind == "i" else 2**bits - 1
    return ends - stored.astype(np.int64)


def _looked_up(stored: Stored, dataset: Dataset, *, inverse: bool) -> Pixels:
    """Values of the modality table; `inverse` mirrors them within the range of its entries."""
    table = items(dataset, "ModalityLUTSequence")[0]
    entries, first, bits = numbers(table, "LUTDescriptor", 3) or (0, 0, 0)
    if not 0 <= entries <= _MOST_ENTRIES:
        raise ValueError
    # Entries of 9 to 15 bits are stored in 16.
    table.LUTDescriptor = [int(entries), int(first), 8 if bits <= 8 else 16]
    pixels = np.asarray(apply_modality_lut(stored.astype(np.int64), dataset)).astype(np.float32)
    if not inverse:
        return pixels
    # The table maps stored values, so that these must not be mirrored before it.
    mapped = int(first) + np.arange(int(entries) or _MOST_ENTRIES)
    values = np.asarray(apply_modality_lut(mapped, dataset)).astype(np.float32)
    mirrored: Pixels = values.min() + values.max() - pixels
    return mirrored


def _padding(stored: Stored, dataset: Dataset) -> NDArray[np.bool_] | None:
    """Where pixels lie outside the field of view, by PixelPaddingValue and its range limit."""
    kind = "" if stored.dtype.kind != "f" else _FLOAT_KINDS[stored.dtype.itemsize]
    value = number(dataset, f"{kind}PixelPaddingValue")
    if value is None:
        return None
    limit = number(dataset, f"{kind}PixelPaddingRangeLimit")
    bits = integer(dataset, "BitsStored") or stored.dtype.itemsize * 8
    ends = [_as_stored(end, stored, bits) for end in (value, value if limit is None else limit)]
    padding: NDArray[np.bool_] = (stored >= min(ends)) & (stored <= max(ends))
    return padding


def _as_stored(value: float, stored: Stored, bits: int) -> float:
    """A padding value in the pixels' own sign.

    Headers write -2000 as 63536 and back, and the lowest of 12 signed bits as 2048.
    """
    if stored.dtype.kind == "f":
        return value
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if stored.dtype.kind == "u":
        lowest, highest = 0, 2**bits - 1
    allocated = 2 ** (stored.dtype.itemsize * 8)
    written = (value, value - allocated, value + allocated, value - 2**bits)
    return next((each for each in written if lowest <= each <= highest), value)


def _painter(dataset: Dataset, layout: Layout) -> tuple[Callable[[Stored], Pixels], int]:
    """A function from stored frames, of palette indices or RGB values, to RGB 0..255.

    Also the bits of one colour value: of the palette's entries, or of the pixels themselves.
    """
    if layout.samples == 3:
        depth = integer(dataset, "BitsStored") or layout.bits
        scale = np.float32(_EIGHT_BIT / (2**depth - 1))
        return lambda stored: stored.astype(np.float32) * scale, depth
    first, table = palette_of(dataset)
    # Palettes of 8-bit colours are often written in 16 bits.
    depth = 16 if table.max() > _EIGHT_BIT else 8
    # Indices beyond the table take its nearest colour (PS3.3 C.7.6.3.1.5).
    last = len(table) - 1
    colours = table.astype(np.float32) * np.float32(_EIGHT_BIT / (2**depth - 1))
    return lambda stored: colours[np.clip(stored.astype(np.int64) - first, 0, last)], depth
