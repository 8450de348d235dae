"""The bytes of a DICOM file as pydicom asks for them, with limits on how many and how often.

A file of a megabyte can hold a gigabyte of zeros, values that claim to be as long as the file, or
a hundred thousand elements.
"""

import io
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, BinaryIO, Literal

from wsseg.imaging.errors import ReadError
from wsseg.imaging.files import held_file
from wsseg.imaging.limits import shown_mib

PREAMBLE = bytes(128) + b"DICM"

_PACKED_CHUNK = 1 << 16
_INFLATED_CHUNK = 1 << 18


class Metered(ABC):
    """A stream that counts what is read, and refuses more than is allowed.

    refusal: why, since pydicom replaces some of the exceptions that its stream raises.
    """

    refusal: ReadError | None = None
    _source = ""
    _bytes = _most = _reads = 0

    def allow(self, source: str, *, nbytes: int, reads: int) -> None:
        """Allow so many more bytes and reads; `source` names the file in the refusal."""
        self._source, self._bytes, self._most, self._reads = source, nbytes, nbytes, reads

    @abstractmethod
    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, fewer at the end."""

    @abstractmethod
    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to an offset."""

    @abstractmethod
    def close(self) -> None:
        """Close the file, or forget its content."""

    def _asked(self, size: int | None) -> int:
        """The bytes to read for a request of `size`, at most one more than is left."""
        self._reads -= 1
        if self._reads < 0:
            raise self._refused("header_too_large", "has too many elements in its header")
        if size is None or size < 0:  # pydicom does so only to inflate the rest without a limit
            raise self._refused("broken_header", "hides its transfer syntax behind other elements")
        return min(size, self._bytes + 1)

    def _got(self, content: bytes) -> bytes:
        self._bytes -= len(content)
        if self._bytes < 0:
            what = f"has a header or pixels of more than {shown_mib(self._most)}"
            raise self._refused("header_too_large", what)
        return content

    def _refused(self, reason: str, what: str, remedy: str = "export it again") -> ReadError:
        self.refusal = ReadError(reason, f"{self._source} {what}: {remedy}")
        return self.refusal


# pydicom reads a few bytes at a time: of these methods, the fewest steps.
_read_file, _read_memory = io.BufferedReader.read, io.BytesIO.read


class _File(io.BufferedReader, Metered):
    def read(self, size: int | None = -1, /) -> bytes:
        if size and self._reads > 0 < size < self._bytes:
            self._reads -= 1
            self._bytes -= size
            return _read_file(self, size)
        return self._got(_read_file(self, self._asked(size)))


class _Memory(io.BytesIO, Metered):
    def read(self, size: int | None = -1, /) -> bytes:
        if size and self._reads > 0 < size < self._bytes:
            self._reads -= 1
            self._bytes -= size
            return _read_memory(self, size)
        return self._got(_read_memory(self, self._asked(size)))


class _WithPreamble(io.RawIOBase):
    """A file that lacks the preamble, behind one."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.name = file.name
        self._at = 0

    def readable(self) -> Literal[True]:
        return True

    def seekable(self) -> Literal[True]:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset from the beginning or from here."""
        self._at = offset + (self._at if whence == io.SEEK_CUR else 0)
        self._file.seek(max(0, self._at - len(PREAMBLE)))
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the preamble, or the file behind it, goes."""
        if self._at < len(PREAMBLE):
            part = PREAMBLE[self._at :][: len(buffer)]
            buffer[: len(part)] = part
        else:
            part = self._file.read(len(buffer))
            buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def close(self) -> None:
        """Close the file below too."""
        self._file.close()
        super().close()


def open_metered(path: Path, *, with_preamble: bool = False) -> "_File | _Memory":
    """A DICOM file to be read, from memory where it is held; nothing is allowed yet.

    with_preamble: put one before a file that has none.
    """
    held = held_file(path)
    if held is not None and held.content is not None:
        return _Memory(PREAMBLE + held.content if with_preamble else held.content)
    file = io.FileIO(str(path))  # pydicom goes back to it by its name, a text
    return _File(_WithPreamble(file) if with_preamble else file)


class Inflated(Metered):
    """The deflated rest of a file, inflated only as far as it is read.

    What precedes a value is kept, because pydicom goes back. most: bytes that it may inflate to;
    how: what a user can do about more.
    """

    def __init__(self, packed: BinaryIO, most: int, how: str) -> None:
        self._packed = packed
        self._limit, self._how = most, how
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._content = bytearray()
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes. Raises ReadError where they lie beyond the limit, or zlib.error."""
        start, end = self._at, self._at + self._asked(size)
        if end > self._limit:  # at once, by the length that a value claims
            raise self._too_large()
        self._inflate(end)
        content = bytes(memoryview(self._content)[start:end])
        self._at = start + len(content)
        return self._got(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset from the beginning or from here."""
        self._at = offset + (self._at if whence == io.SEEK_CUR else 0)
        return self._at

    def tell(self) -> int:
        """The offset of the next byte."""
        return self._at

    def close(self) -> None:
        """Forget the content: the data set keeps a reference to its stream."""
        self._content = bytearray()

    def _inflate(self, end: int) -> None:
        while len(self._content) < end and not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._packed.read(_PACKED_CHUNK)
            if not packed:
                return
            self._content += self._inflater.decompress(packed, _INFLATED_CHUNK)

    def _too_large(self) -> ReadError:
        what = f"inflates to more than {shown_mib(self._limit)}"
        return self._refused("too_large", what, self._how)
