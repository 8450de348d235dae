"""How an image file stores its values, by its header: files of one scale are stored alike."""

from pathlib import Path

from PIL import Image

from wsseg.imaging.dicom_file import at_pixels, open_dicom
from wsseg.imaging.dicom_quiet import quiet
from wsseg.imaging.dicom_values import tags_of, text, value_of
from wsseg.imaging.find_content import content_of, is_dicom, read_head
from wsseg.imaging.find_pairs import header_beside
from wsseg.imaging.scan import FileRef
from wsseg.imaging.volume_file import open_volume

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH = 24  # of the first bytes: a signature of 8, a chunk's head of 8, width and height
_TAGS = tags_of(("Modality", "BitsStored", "RescaleSlope", "RescaleIntercept", "RescaleType"))
_MODES = {"F": "floating-point", "I": "32-bit", "I;16": "16-bit", "I;16B": "16-bit"}


def stored_as(path: Path) -> str:
    """A few words on how values are stored, such as "16-bit"; "" where the header cannot be read.

    Only to be compared: files stored in other ways may still be on one scale.
    """
    try:
        return _stored_as(path)
    except Exception:  # whoever reads the file says what is wrong with it
        return ""


def _stored_as(path: Path) -> str:
    head = read_head(FileRef(path, path.name))
    if head.start.startswith(_PNG):
        return f"{max(8, head.start[_PNG_DEPTH])}-bit"
    if is_dicom(head.start):
        return _dicom(path)
    header = header_beside(path)
    if header or content_of(head) == "volume":
        layout = open_volume(FileRef(header or path, path.name)).layout
        return f"{layout.dtype.name}, slope {layout.slope:g}, intercept {layout.offset:g}"
    with quiet, Image.open(path) as picture:
        return _MODES.get(picture.mode, "8-bit")


def _dicom(path: Path) -> str:
    with quiet:
        header, _ = open_dicom(path, path.name, tags=_TAGS, stop=at_pixels)
        slope, intercept = (value_of(header, f"Rescale{what}") for what in ("Slope", "Intercept"))
        words = (text(header, "Modality"), f"{value_of(header, 'BitsStored')}-bit")
        return f"{' '.join(words)}, slope {slope}, intercept {intercept}".strip()
