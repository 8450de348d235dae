"""What a scan's pixels tell before the network sees them: empty slices, and equal ones."""

import hashlib
from dataclasses import dataclass

from wsseg.imaging.scan import Scan
from wsseg.serve.skip import Skip

DIGEST_BYTES = 16  # two slices in a life's work of a clinic meet by chance with odds of 1 : 10^24


@dataclass(frozen=True)
class Looked:
    """A scan that was looked at.

    empty: numbers of the slices that are not to be run. digests: of each slice's bytes and shape,
    equal for equal slices; empty bytes for those not to be run.
    """

    scan: Scan
    empty: frozenset[int]
    digests: tuple[bytes, ...]


def look(scan: Scan, skip: Skip) -> Looked:
    """Find the empty slices by the rule `skip`, and what tells the others apart."""
    empty = skip(scan)
    digests = tuple(
        b"" if index in empty else _digest(scan, index) for index in range(len(scan.pixels))
    )
    return Looked(scan, empty, digests)


def _digest(scan: Scan, index: int) -> bytes:
    pixels = scan.pixels[index]
    shape = repr(pixels.shape).encode()
    # Not for secrecy, but no other kind of hash in the standard library is safe to rely on alone.
    digest = hashlib.blake2b(shape, digest_size=DIGEST_BYTES)
    digest.update(pixels if pixels.flags.c_contiguous else pixels.tobytes())
    return digest.digest()
