"""The size that a compressed picture states itself, whatever the file round it says."""

import struct

# Markers that begin a frame of JPEG (ITU-T T.81, table B.1), and the segment of JPEG 2000 that
# states the size of the image (ITU-T T.800, A.5.1).
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_J2K_START = b"\xff\x4f\xff\x51"
_J2K_SIZE = struct.Struct(">IIII")  # columns and rows of the grid, then those before the image


def stated_pixels(start: bytes) -> int:
    """Rows times columns by the first bytes of a JPEG or JPEG 2000 codestream; 0 if unknown."""
    at = start.find(_J2K_START)
    if at >= 0:
        head = start[at + 8 : at + 8 + _J2K_SIZE.size]
        if len(head) < _J2K_SIZE.size:
            return 0
        columns, rows, left, top = map(int, _J2K_SIZE.unpack(head))
        return max(0, columns - left) * max(0, rows - top)
    at = 2 if start.startswith(b"\xff\xd8") else len(start)
    while at + 9 <= len(start) and start[at] == 0xFF:
        if start[at + 1] in _FRAMES:
            rows, columns = struct.unpack_from(">HH", start, at + 5)
            return int(rows) * int(columns)
        at += 2 + int.from_bytes(start[at + 2 : at + 4], "big")
    return 0
