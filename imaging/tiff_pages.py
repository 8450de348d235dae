"""The chain of pages of a TIFF, followed before anything is read of them."""

import struct
from typing import TYPE_CHECKING

from wsseg.imaging.errors import ReadError

if TYPE_CHECKING:
    from tifffile import TiffFile


def check_pages(file: "TiffFile", size: int, source: str) -> None:
    """Raise ReadError where a page leads back to an earlier one, or where pages overlap.

    size: bytes of the file. tifffile 2026.3 follows such a chain for up to 2^32 pages.
    """
    form, stream = file.tiff, file.filehandle
    offset, seen, described = file.pages.first.offset, set[int](), 0
    while 0 < offset < size:
        seen.add(offset)
        stream.seek(offset)
        count = stream.read(form.tagnosize)
        if len(count) < form.tagnosize:
            return
        length = struct.unpack(form.tagnoformat, count)[0] * form.tagsize
        described += form.tagnosize + length + form.offsetsize
        stream.seek(offset + form.tagnosize + length)
        following = stream.read(form.offsetsize)
        if len(following) < form.offsetsize:
            return
        offset = struct.unpack(form.offsetformat, following)[0]
        if offset in seen or described > size:
            raise ReadError(
                "broken_header", f"{source} has pages that lead to each other: export it again"
            )
