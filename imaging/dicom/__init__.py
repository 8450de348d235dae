"""DICOM input: headers, grouping into scans, pixels in physical units, segmentations.

The names that other modules use, imported when they are first used: pictures need only
`silence_pydicom`, and the readers of DICOM need pictures.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "DicomVolume": "reader",
    "Header": "header",
    "SlicePosition": "segmentation",
    "at_pixels": "file",
    "dicom_volumes": "reader",
    "frames_ref": "reader",
    "group": "series",
    "is_segmentation": "segmentation",
    "open_dicom": "file",
    "read_dicom": "reader",
    "read_headers": "header",
    "segment_labels": "segmentation",
    "silence_pydicom": "file",
    "slice_position": "segmentation",
    "syntax_name": "file",
    "tags_of": "file",
    "text": "file",
    "undecoded": "file",
    "unnamed_segments": "segmentation",
    "value_of": "file",
    "whole_step": "segmentation",
}

if TYPE_CHECKING:
    from wsseg.imaging.dicom.file import at_pixels as at_pixels
    from wsseg.imaging.dicom.file import open_dicom as open_dicom
    from wsseg.imaging.dicom.file import silence_pydicom as silence_pydicom
    from wsseg.imaging.dicom.file import syntax_name as syntax_name
    from wsseg.imaging.dicom.file import tags_of as tags_of
    from wsseg.imaging.dicom.file import text as text
    from wsseg.imaging.dicom.file import undecoded as undecoded
    from wsseg.imaging.dicom.file import value_of as value_of
    from wsseg.imaging.dicom.header import Header as Header
    from wsseg.imaging.dicom.header import read_headers as read_headers
    from wsseg.imaging.dicom.reader import DicomVolume as DicomVolume
    from wsseg.imaging.dicom.reader import dicom_volumes as dicom_volumes
    from wsseg.imaging.dicom.reader import frames_ref as frames_ref
    from wsseg.imaging.dicom.reader import read_dicom as read_dicom
    from wsseg.imaging.dicom.segmentation import SlicePosition as SlicePosition
    from wsseg.imaging.dicom.segmentation import is_segmentation as is_segmentation
    from wsseg.imaging.dicom.segmentation import segment_labels as segment_labels
    from wsseg.imaging.dicom.segmentation import slice_position as slice_position
    from wsseg.imaging.dicom.segmentation import unnamed_segments as unnamed_segments
    from wsseg.imaging.dicom.segmentation import whole_step as whole_step
    from wsseg.imaging.dicom.series import group as group
else:  # a type checker that saw this function would accept any name

    def __getattr__(name: str) -> Any:
        """A public name, from the module that defines it."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
