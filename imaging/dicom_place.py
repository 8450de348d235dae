"""How the slices of one DICOM file lie in the patient, by its header alone."""

from dataclasses import dataclass
from pathlib import Path

from wsseg.imaging.dicom_file import open_dicom
from wsseg.imaging.dicom_frames import read_frames
from wsseg.imaging.dicom_geometry import common_orientation, stack_geometry
from wsseg.imaging.dicom_object import PLACE_TAGS, slice_order, stated_step
from wsseg.imaging.dicom_quiet import quiet
from wsseg.imaging.dicom_values import integer, text
from wsseg.imaging.errors import ReadError
from wsseg.imaging.orientation import show_image, turned
from wsseg.imaging.scan import Geometry
from wsseg.imaging.turn import PlaneName, Turn

_PIXELS_FROM = 0x7FE00008


@dataclass(frozen=True)
class DicomPlace:
    """stored: (rows, columns) as in the file. geometry: of the slices in their order, as shown."""

    stored: tuple[int, int]
    slices: int
    geometry: Geometry
    turn: Turn
    plane: PlaneName
    modality: str


def dicom_place(path: Path) -> DicomPlace:
    """What `read_dicom` would say of where the slices of a file lie, no pixel being read.

    Raises ReadError and whatever pydicom raises on damage.
    """
    with quiet:
        header, _ = open_dicom(
            path, path.name, tags=PLACE_TAGS, stop=lambda tag, _vr, _length: tag >= _PIXELS_FROM
        )
        rows, columns = integer(header, "Rows"), integer(header, "Columns")
        if not rows or not columns:
            what = "its header does not say how many rows and columns it has"
            raise ReadError("broken_header", f"{path.name} is damaged, {what}: export it again")
        count = max(integer(header, "NumberOfFrames") or 1, 1)
        frames = read_frames(header, count, path.name)
        order, placed = slice_order(frames.planes)
        planes = [frames.planes[index] for index in order]
        geometry, _ = stack_geometry(planes, stated_step(header), placed=placed)
        plane, turn = show_image(common_orientation(planes))
        return DicomPlace(
            (rows, columns),
            count,
            turned(geometry, turn, (rows, columns)),
            turn,
            plane,
            text(header, "Modality"),
        )
