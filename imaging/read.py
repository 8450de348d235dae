"""Any scan that was found, read."""

from collections.abc import Callable
from contextlib import nullcontext

from wsseg.imaging.changed import unchanged
from wsseg.imaging.dicom_read import read_dicom
from wsseg.imaging.guard import reading
from wsseg.imaging.picture import read_picture
from wsseg.imaging.scan import Kind, Scan, ScanRef
from wsseg.imaging.volume import read_volume

_READERS: dict[Kind, Callable[[ScanRef], Scan]] = {
    "dicom": read_dicom,
    "volume": read_volume,
    "picture": read_picture,
}


def read(ref: ScanRef) -> Scan:
    """Read the pixels and geometry of one scan.

    Raises ReadError, and nothing else that a file could cause; one with the reason `changed` where
    the file is no longer the one that was found.
    """
    file = ref.files[0]
    # DICOM is told by its UIDs, as it is read.
    watched = nullcontext() if ref.kind == "dicom" else unchanged(file)
    with reading(file.source), watched:
        return _READERS[ref.kind](ref)
