"""TIFFs as users write and read them, for the tests of their pixels and of their pages."""

import numpy as np
import pytest
import tifffile

from wsseg.imaging import (
    Failure,
    ReadError,
    ScanRef,
    find,
    read,
    read_slice,
    slice_count,
    slice_shape,
)

RANDOM = np.random.default_rng(2)
GREY = RANDOM.integers(0, 256, (40, 56), np.uint8)


def scans(path):
    found = list(find([path], scratch=path.parent / "scratch"))
    assert not any(isinstance(each, Failure) for each in found)
    return [read(ref) for ref in found if isinstance(ref, ScanRef)]


def written(path, values, **options):
    """The one scan of a TIFF; that each slice read alone is the same is checked on the way."""
    tifffile.imwrite(path, values, **options)
    (scan,) = scans(path)
    assert slice_count(path) == len(scan.pixels)
    for index, plane in enumerate(scan.pixels):
        assert np.array_equal(read_slice(path, slice_index=index), plane)
    assert slice_shape(path) == scan.pixels.shape[1:3]
    return scan


def refusal(path):
    """Why a file is refused, in inference and training alike."""
    (ref,) = find([path], scratch=path.parent / "scratch")
    assert isinstance(ref, ScanRef)
    with pytest.raises(ReadError) as caught:
        read(ref)
    with pytest.raises(ReadError) as again:
        read_slice(path)
    assert caught.value.reason == again.value.reason
    return caught.value.reason, str(caught.value)
