"""What a scan's pixels tell before the network sees them: empty slices, and equal ones."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.scan import Scan
from wsseg.serve.likeness import OUTSIDE_WINDOW, Likeness
from wsseg.serve.skip import Skip

DIGEST_BYTES = 16  # two slices in a life's work of a clinic meet by chance with odds of 1 : 10^24


@dataclass(frozen=True)
class Looked:
    """A scan that was looked at.

    empty: numbers of the slices that are not to be run. digests: of each slice's bytes and shape,
    equal for equal slices; empty bytes for those not to be run. outside: numbers of the slices
    whose values lie outside the trained range.
    """

    scan: Scan
    empty: frozenset[int]
    digests: tuple[bytes, ...]
    outside: frozenset[int] = frozenset()


def look(scan: Scan, skip: Skip, likeness: Likeness | None = None) -> Looked:
    """Find the empty slices by the rule `skip`, and what tells the others apart.

    likeness: how the scan differs from the training images; its flags become the scan's.
    """
    is_empty = skip(scan)
    # One pass: a long scan decodes its slices each time that they are asked for.
    digests = tuple(b"" if is_empty(pixels) else _digest(pixels) for pixels in scan.pixels)
    empty = frozenset(index for index, digest in enumerate(digests) if not digest)
    alike = likeness or Likeness({})
    of_scan = tuple(flag for flag in alike.flags if flag != OUTSIDE_WINDOW)
    if of_scan:
        scan = replace(scan, flags=(*scan.flags, *of_scan))
    return Looked(scan, empty, digests, alike.outside - empty)


def _digest(pixels: NDArray[np.float32]) -> bytes:
    shape = repr(pixels.shape).encode()
    # Not for secrecy, but no other kind of hash in the standard library is safe to rely on alone.
    digest = hashlib.blake2b(shape, digest_size=DIGEST_BYTES)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()
