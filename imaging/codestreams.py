"""What a compressed picture states itself, whatever the file round it says."""

import struct

# Markers that begin a frame of JPEG (ITU-T T.81, table B.1) and of JPEG-LS (ITU-T T.87, C.1.1), and
# the segment of JPEG 2000 that states the size of the image (ITU-T T.800, A.5.1).
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_FRAME_SIZE = struct.Struct(">xHH")  # behind the bits of a value: rows, columns
_J2K_START = b"\xff\x4f\xff\x51"
_J2K_SIZE = struct.Struct(">IIII")  # columns and rows of the grid, then those before the image


def jpeg_frame(start: bytes) -> tuple[int, bytes]:
    """The marker of a JPEG's frame, and bits of a value (1 byte), rows and columns (2 bytes each).

    (0, b"") for what is no JPEG, and fewer bytes where `start` ends before.
    """
    at = 2 if start.startswith(b"\xff\xd8") else len(start)
    while at + 5 <= len(start) and start[at] == 0xFF:
        if start[at + 1] in _FRAMES:
            return start[at + 1], start[at + 4 : at + 4 + _FRAME_SIZE.size]
        at += 2 + int.from_bytes(start[at + 2 : at + 4], "big")
    return 0, b""


def stated_pixels(start: bytes) -> int:
    """Rows times columns by the first bytes of a JPEG or JPEG 2000 codestream; 0 if unknown."""
    at = start.find(_J2K_START)
    if at >= 0:
        head = start[at + 8 : at + 8 + _J2K_SIZE.size]
        if len(head) < _J2K_SIZE.size:
            return 0
        columns, rows, left, top = map(int, _J2K_SIZE.unpack(head))
        return max(0, columns - left) * max(0, rows - top)
    _, frame = jpeg_frame(start)
    if len(frame) < _FRAME_SIZE.size:
        return 0
    rows, columns = map(int, _FRAME_SIZE.unpack(frame))
    return rows * columns
