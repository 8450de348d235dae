"""Scans in volume files: one per time volume, each plane turned to display order."""

import math

import numpy as np

from wsseg.imaging.guard import reading
from wsseg.imaging.nifti_header import millimetres
from wsseg.imaging.nonfinite import fill_nonfinite
from wsseg.imaging.orientation import RAS_TO_LPS, lps_geometry, skew_flags
from wsseg.imaging.scan import FileRef, Geometry, Scan, ScanRef, SliceId
from wsseg.imaging.volume_file import VolumeFile, open_volume


def volume_refs(file: FileRef) -> tuple[ScanRef, ...]:
    """The scans in a .nii, .nii.gz or .hdr/.img file, one per time volume, by its header only.

    Raises ReadError for a header that is broken or promises more than the file can hold.
    """
    with reading(file.source):
        layout = open_volume(file).layout
    size = layout.decoded_bytes
    if layout.volumes == 1:
        return (ScanRef("volume", (file,), decoded_bytes=size),)
    return tuple(
        ScanRef("volume", (file,), volume=volume, decoded_bytes=size)
        for volume in range(layout.volumes)
    )


def read_volume(ref: ScanRef) -> Scan:
    """Read one time volume, slices along the third axis, planes in display order.

    Values that are not finite become the lowest finite value of their slice (or, where it has
    none, of the volume), with the flag NONFINITE. Raises ReadError.
    """
    file = ref.files[0]
    with reading(file.source):
        opened = open_volume(file)
        pixels = opened.planes(ref.volume or 0)
        mended = fill_nonfinite(pixels, file.source)
        flags = (*ref.flags, *opened.flags, *shape_flags(opened))
        flags = (*flags, "NONFINITE") if mended else flags
        slices = (SliceId(file.source, frame=ref.volume),) * len(pixels)
        return Scan(
            *(pixels, volume_geometry(opened), slices, ref),
            flags=flags,
            turn=opened.turn,
            plane=opened.plane_name,
        )


def volume_geometry(opened: VolumeFile) -> Geometry:
    """Where the turned pixels lie; without an affine only the header's voxel lengths are known."""
    size_i, size_j, slices = opened.layout.shape
    if opened.affine is not None:
        turned = RAS_TO_LPS @ opened.affine @ opened.turn.to_stored((size_i, size_j))
        return lps_geometry(turned, slices)
    lengths = [float(x) * millimetres(opened.header) for x in opened.header["pixdim"][1:4]]
    edge_i, edge_j, edge_k = (x if math.isfinite(x) and x > 0 else None for x in lengths)
    pixel_mm = (edge_j, edge_i) if edge_i and edge_j else None
    positions = np.arange(slices, dtype=np.float64) * edge_k if edge_k else None
    return Geometry(None, pixel_mm, positions)


def shape_flags(opened: VolumeFile) -> tuple[str, ...]:
    """What a reader should know about the grid and the pixels beside the affine's flags."""
    alpha = ("ALPHA_DROPPED",) if "A" in (opened.layout.dtype.names or ()) else ()
    return alpha if opened.affine is None else (*skew_flags(opened.affine), *alpha)
