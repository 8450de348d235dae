"""How large the pixels of a file are, as measuring it would say."""

import tempfile
from pathlib import Path

from wsseg.imaging.errors import Failure, ReadError


def pixel_mm2(path: Path) -> float | None:
    """The area of a pixel of an image file in mm2; None where its header does not say.

    The whole file is read. Raises ReadError.
    """
    from wsseg.imaging.find import find
    from wsseg.imaging.read import read

    with tempfile.TemporaryDirectory(prefix="wsseg-") as scratch:
        for found in find([path], scratch=Path(scratch)):
            if isinstance(found, Failure):
                raise ReadError(found.reason, found.message)
            sides = read(found).geometry.pixel_mm
            return None if sides is None else sides[0] * sides[1]
    return None
