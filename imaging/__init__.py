"""Medical images in, label maps out: files found and read, geometry, and what is written.

The names that other rooms need most, imported when they are first used: a program that reads one
table loads no image library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "AllFailedError": "errors",
    "Denominator": "definitions",
    "Dependence": "definitions",
    "Failure": "errors",
    "Fault": "tables",
    "FileRef": "scan",
    "Frozen": "definitions",
    "Geometry": "scan",
    "NothingToDoError": "errors",
    "Numbering": "label_values",
    "PixelCounts": "definitions",
    "RatioDefinition": "definitions",
    "ReadError": "errors",
    "Reorientation": "scan",
    "Scan": "scan",
    "ScanRef": "scan",
    "Seen": "definitions",
    "SliceId": "scan",
    "SomeFailedError": "errors",
    "TableError": "tables",
    "TableOptions": "tables",
    "TextTable": "tables",
    "Window": "definitions",
    "WssegError": "errors",
    "area_ratios": "definitions",
    "atomic": "files",
    "atomic_files": "files",
    "atomic_folder": "files",
    "class_colour": "definitions",
    "denominator_of": "definitions",
    "dice": "definitions",
    "find": "discovery",
    "grey_values": "definitions",
    "iou": "definitions",
    "label_colours": "definitions",
    "label_grid_difference": "label_maps",
    "lock_output": "files",
    "luminance": "definitions",
    "mask_iou": "definitions",
    "named_file": "files",
    "numbering": "label_values",
    "read": "reading",
    "read_grid": "reading",
    "read_label_slice": "reading",
    "read_labels_for": "label_maps",
    "read_slice": "reading",
    "read_table": "tables",
    "read_volume": "volumes",
    "safe_name": "label_maps",
    "slice_count": "reading",
    "slice_shape": "reading",
    "volume_refs": "volumes",
    "write_labels": "label_maps",
}

if TYPE_CHECKING:
    from wsseg.imaging.definitions import Denominator as Denominator
    from wsseg.imaging.definitions import Dependence as Dependence
    from wsseg.imaging.definitions import Frozen as Frozen
    from wsseg.imaging.definitions import PixelCounts as PixelCounts
    from wsseg.imaging.definitions import RatioDefinition as RatioDefinition
    from wsseg.imaging.definitions import Seen as Seen
    from wsseg.imaging.definitions import Window as Window
    from wsseg.imaging.definitions import area_ratios as area_ratios
    from wsseg.imaging.definitions import class_colour as class_colour
    from wsseg.imaging.definitions import denominator_of as denominator_of
    from wsseg.imaging.definitions import dice as dice
    from wsseg.imaging.definitions import grey_values as grey_values
    from wsseg.imaging.definitions import iou as iou
    from wsseg.imaging.definitions import label_colours as label_colours
    from wsseg.imaging.definitions import luminance as luminance
    from wsseg.imaging.definitions import mask_iou as mask_iou
    from wsseg.imaging.discovery import find as find
    from wsseg.imaging.errors import AllFailedError as AllFailedError
    from wsseg.imaging.errors import Failure as Failure
    from wsseg.imaging.errors import NothingToDoError as NothingToDoError
    from wsseg.imaging.errors import ReadError as ReadError
    from wsseg.imaging.errors import SomeFailedError as SomeFailedError
    from wsseg.imaging.errors import WssegError as WssegError
    from wsseg.imaging.files import atomic as atomic
    from wsseg.imaging.files import atomic_files as atomic_files
    from wsseg.imaging.files import atomic_folder as atomic_folder
    from wsseg.imaging.files import lock_output as lock_output
    from wsseg.imaging.files import named_file as named_file
    from wsseg.imaging.label_maps import label_grid_difference as label_grid_difference
    from wsseg.imaging.label_maps import read_labels_for as read_labels_for
    from wsseg.imaging.label_maps import safe_name as safe_name
    from wsseg.imaging.label_maps import write_labels as write_labels
    from wsseg.imaging.label_values import Numbering as Numbering
    from wsseg.imaging.label_values import numbering as numbering
    from wsseg.imaging.reading import read as read
    from wsseg.imaging.reading import read_grid as read_grid
    from wsseg.imaging.reading import read_label_slice as read_label_slice
    from wsseg.imaging.reading import read_slice as read_slice
    from wsseg.imaging.reading import slice_count as slice_count
    from wsseg.imaging.reading import slice_shape as slice_shape
    from wsseg.imaging.scan import FileRef as FileRef
    from wsseg.imaging.scan import Geometry as Geometry
    from wsseg.imaging.scan import Reorientation as Reorientation
    from wsseg.imaging.scan import Scan as Scan
    from wsseg.imaging.scan import ScanRef as ScanRef
    from wsseg.imaging.scan import SliceId as SliceId
    from wsseg.imaging.tables import Fault as Fault
    from wsseg.imaging.tables import TableError as TableError
    from wsseg.imaging.tables import TableOptions as TableOptions
    from wsseg.imaging.tables import TextTable as TextTable
    from wsseg.imaging.tables import read_table as read_table
    from wsseg.imaging.volumes import read_volume as read_volume
    from wsseg.imaging.volumes import volume_refs as volume_refs
else:  # a type checker that saw this function would accept any name

    def __getattr__(name: str) -> Any:
        """A public name, from the module that defines it."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
