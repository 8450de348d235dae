"""Scans in volume files: one per time volume, each plane turned to display order."""

import numpy as np

from wsseg.imaging.guard import reading
from wsseg.imaging.nonfinite import fill_nonfinite
from wsseg.imaging.orientation import RAS_TO_LPS, lps_geometry, skew_flags
from wsseg.imaging.scan import FileRef, Geometry, Scan, ScanRef, SliceId
from wsseg.imaging.volume_file import VolumeFile, open_volume
from wsseg.imaging.volume_header import NoImageError


def volume_refs(file: FileRef) -> tuple[ScanRef, ...]:
    """The scans in a NIfTI, Analyze, NRRD, MetaImage or MGH file, one per time volume.

    Only its header is read. Raises ReadError for a header that is broken or promises more than
    the file can hold, and NoImageError for a label map or a transformation.
    """
    with reading(file.source):
        header = open_volume(file).header
        if header.label_map:
            raise NoImageError(
                "label_map",
                f"{file.source} is a label map, its header says so ({header.label_map}), not an "
                "image to segment",
            )
    size = header.layout.decoded_bytes
    if header.layout.volumes == 1:
        return (ScanRef("volume", (file,), decoded_bytes=size),)
    return tuple(
        ScanRef("volume", (file,), volume=volume, decoded_bytes=size)
        for volume in range(header.layout.volumes)
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
        geometry = volume_geometry(opened)
        found = {
            "NONFINITE": fill_nonfinite(pixels, file.source),
            "ALPHA_DROPPED": opened.layout.alpha,
            "PX_ONLY": geometry.pixel_mm is None,
        }
        skew = () if opened.affine is None else skew_flags(opened.affine)
        flags = (*ref.flags, *opened.header.flags, *skew)
        flags += tuple(flag for flag, holds in found.items() if holds)
        slices = (SliceId(file.source, frame=ref.volume),) * len(pixels)
        return Scan(
            *(pixels, geometry, slices, ref),
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
    edge_i, edge_j, edge_k = opened.header.lengths_mm
    pixel_mm = (edge_j, edge_i) if edge_i and edge_j else None
    positions = np.arange(slices, dtype=np.float64) * edge_k if edge_k else None
    return Geometry(None, pixel_mm, positions)
