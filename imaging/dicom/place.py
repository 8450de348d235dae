"""The scans of one DICOM file, and how their slices lie in the patient, by its header alone."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydicom.dataset import Dataset

from wsseg.imaging.dicom.file import at_pixels, open_dicom
from wsseg.imaging.dicom.geometry import orientation_shown, stack_geometry
from wsseg.imaging.dicom.header import read_headers
from wsseg.imaging.dicom.mosaic import check_no_grid
from wsseg.imaging.dicom.object import PLACE_TAGS, mosaic_in, order_slices, read_frames, stated_step
from wsseg.imaging.dicom.series import group
from wsseg.imaging.dicom.sop_classes import no_image
from wsseg.imaging.dicom.values import frame_count, integer, items, quiet, text
from wsseg.imaging.errors import Failure, ReadError
from wsseg.imaging.files import version_of
from wsseg.imaging.orientation import show_image, turned
from wsseg.imaging.scan import FileRef, Geometry, PlaneName, Reorientation, ScanRef

# A table may name each slice of a file in a row of its own, and ask several things of each.
_REMEMBERED = 4096


@dataclass(frozen=True)
class DicomPlace:
    """One scan of a file. stored: (rows, columns) of a slice as in the file. geometry: of the
    slices in their order, as shown. frames: their numbers in the file, from 0.
    """

    stored: tuple[int, int]
    frames: tuple[int, ...]
    geometry: Geometry
    reorientation: Reorientation
    plane: PlaneName
    modality: str


def dicom_places(path: Path) -> tuple[DicomPlace, ...]:
    """The scans that `find` would see in a file, and what `read_dicom` would say of their places.

    No pixel is read. Raises ReadError and whatever pydicom raises on damage.
    """
    return _places(path, version_of(path))


def frames_ref(path: Path, frames: tuple[int, ...]) -> ScanRef:
    """A part of a scan of one file: some of its frames."""
    return ScanRef("dicom", (FileRef(path, path.name),), frames=(frames,))


@lru_cache(maxsize=_REMEMBERED)
def _places(path: Path, _version: tuple[int, int]) -> tuple[DicomPlace, ...]:
    with quiet:
        header, _ = open_dicom(path, path.name, tags=PLACE_TAGS, stop=at_pixels)
        check_no_grid(header, path.name)
        grouped = bool(items(header, "PerFrameFunctionalGroupsSequence"))
        image = not no_image(text(header, "SOPClassUID"), text(header, "Modality"))
        plain = image and not grouped and frame_count(header) == 1
        if plain and not mosaic_in(header, path.name):
            return (_place(header, path.name, None),)
    headers = read_headers(FileRef(path, path.name))
    if isinstance(headers, Failure):
        raise ReadError(headers.reason, headers.message)
    refs = [found for found in group(headers) if isinstance(found, ScanRef)]
    with quiet:
        chosen = [ref.frames[0] if ref.frames else None for ref in refs]
        return tuple(_place(header, path.name, frames) for frames in chosen)


def _place(header: Dataset, source: str, chosen: tuple[int, ...] | None) -> DicomPlace:
    rows, columns = integer(header, "Rows"), integer(header, "Columns")
    if not rows or not columns:
        what = "its header does not say how many rows and columns it has"
        raise ReadError("broken_header", f"{source} is damaged, {what}: export it again")
    mosaic = mosaic_in(header, source)
    count = frame_count(header)
    frames = read_frames(header, count, source, None if mosaic else chosen)
    slices = order_slices(frames, count, chosen, mosaic)
    geometry, _ = stack_geometry(slices.planes, stated_step(header))
    plane, turn = show_image(orientation_shown(slices.planes))
    stored = (mosaic.rows, mosaic.columns) if mosaic else (rows, columns)
    return DicomPlace(
        stored,
        slices.numbers,
        turned(geometry, turn, stored),
        turn,
        plane,
        text(header, "Modality"),
    )
