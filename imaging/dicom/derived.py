"""What a DICOM object made from a series needs of it: headers, date and time, and its own UIDs."""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec

from pydicom.config import RAISE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM, validate_value

from wsseg.imaging.dicom.file import (
    at_pixels,
    integer,
    is_empty,
    open_dicom,
    parsing_fault,
    silence_pydicom,
    tags_of,
)
from wsseg.imaging.dicom.geometry import PLANE_KEYWORDS
from wsseg.imaging.dicom.header import uids_of
from wsseg.imaging.errors import NotPossibleError, ReadError, WssegError
from wsseg.imaging.files import check_unchanged
from wsseg.imaging.scan import FileRef, Scan

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "wsseg.invalid")
# Attributes of patient and study that every object has, if only empty (type 2).
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
# Those that it has if the source states them, in numbers or as an age.
_IF_VALID = ("PatientAge", "PatientSize", "PatientWeight", "LossyImageCompressionRatio")
_DATES = ("ContentDate", "AcquisitionDate", "SeriesDate", "StudyDate")
_TIMES = ("ContentTime", "AcquisitionTime", "SeriesTime", "StudyTime")
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
# What a derived object repeats or refers to: no private elements, no institution, no free text.
_KEYWORDS = (
    *_MAY_BE_EMPTY,
    *_DATES,
    *_TIMES,
    *_UIDS,
    *PLANE_KEYWORDS,
    "SpecificCharacterSet",
    "IssuerOfPatientID",
    *_IF_VALID,
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "SeriesNumber",
    "InstanceNumber",
    "Modality",
    "Laterality",
    "BodyPartExamined",
    "PatientOrientation",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SliceThickness",
    "ImagerPixelSpacing",
    "LossyImageCompression",
    "LossyImageCompressionMethod",
    "DimensionOrganizationSequence",
    "DimensionIndexSequence",
)
# For a series that states no date at all: an object must have one, and today's would differ.
_NO_DATE = datetime(1900, 1, 1)
_UTF_8 = "ISO_IR 192"
_LARGEST = 2**31 - 1  # of integer strings (IS)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Maker:
    """The model that derives objects, and all that decides what it finds.

    model: name for people. sha256: of the engine file. version: of wsseg. settings: options that
    change results, as one text.
    """

    model: str
    sha256: str
    version: str
    settings: str


@dataclass(frozen=True)
class SourceHeaders:
    """The headers of the files of a scan, without their pixels, in the order of its slices.

    instances: one data set per file. of_slice: index of the file of each slice. filled: keywords of
    attributes that were missing or had no valid value, and are empty in `instances` for that
    reason.
    """

    instances: tuple[Dataset, ...]
    of_slice: tuple[int, ...]
    filled: tuple[str, ...]


def require_highdicom(option: str) -> None:
    """Load the library that writes DICOM results for `option`; WssegError if it is not installed.

    Its packages import each other in a circle, so that two threads cannot load it at once.
    """
    if find_spec("highdicom") is None:
        raise WssegError(f"{option} needs highdicom: pip install 'wsseg[dicom]'")
    import_module("highdicom.seg")


def source_headers(scan: Scan) -> SourceHeaders:
    """Read the headers of a DICOM scan again, which measuring does not keep.

    They hold the patient's identity, and are for objects of the same study alone. Raises
    NotPossibleError for a scan that no object can refer to, and ReadError for a file that cannot be
    read any more, or that is another one now.
    """
    if scan.ref.kind != "dicom":
        raise NotPossibleError("no_dicom", "its file is no DICOM image that it could refer to")
    with silence_pydicom:
        headers = [_header(file) for file in scan.ref.files]
        places = {str(header.SOPInstanceUID): at for at, header in enumerate(headers)}
        wanted = [one.instance_uid for one in scan.slices]
        if missing := [uid for uid in wanted if uid not in places]:
            raise ReadError(
                "changed",
                f"{len(missing)} of {len(wanted)} slices are no longer in the files that were "
                "measured: run it again when nothing writes to them",
            )
        filled = tuple(sorted({keyword for header in headers for keyword in _completed(header)}))
    if filled:
        logger.info(
            "attributes without a valid value are empty in DICOM results: %s",
            ", ".join(filled),
            extra={"event": "attributes_empty", "attributes": filled},
        )
    return SourceHeaders(tuple(headers), tuple(places[uid] for uid in wanted), filled)


def derived_uid(*parts: str) -> str:
    """A UID that is a function of `parts` (PS3.5, B.2): equal inputs have equal UIDs, so that an
    archive takes the result of a rerun for the same object."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '|'.join(parts)).int}"


def series_number(header: Dataset, offset: int) -> int:
    """A number for a series derived from the one of `header`: its own, if it has one, plus
    `offset`, within what DICOM allows."""
    own = max(0, integer(header, "SeriesNumber") or 0)
    return min(own + offset, _LARGEST)


def source_time(headers: Sequence[Dataset]) -> datetime:
    """Date and time of the source: the latest of content, acquisition, series and study in all
    instances.

    A derived object has these in place of the time at which it was written, because equal inputs
    have to give equal bytes.
    """
    with silence_pydicom:
        keys = tuple(zip(_DATES, _TIMES, strict=True))
        times = (_time(header, date, time) for header in headers for date, time in keys)
        return max((time for time in times if time), default=_NO_DATE)


def _header(file: FileRef) -> Dataset:
    try:
        header, _ = open_dicom(file.path, file.source, tags=tags_of(_KEYWORDS), stop=at_pixels)
    except ReadError:
        raise
    except Exception as error:
        message = f"the header of {file.source} cannot be read again: it"
        raise ReadError("broken_header", f"{message} {parsing_fault(error)}") from error
    check_unchanged(file, uids_of(header))
    for keyword in _UIDS:
        if is_empty(header, keyword):
            raise NotPossibleError("no_uid", f"its header has no {keyword}")
    return header


def _completed(header: Dataset) -> list[str]:
    """Make what patient and study need complete and valid, with empty values, never invented ones;
    returns the keywords of what is now empty.

    Attributes whose values cannot be read are left out: they could not be written either.
    """
    for tag in list(header.keys()):
        try:
            header[tag]
        except Exception:  # whatever pydicom raises on a damaged value
            del header[tag]
    if header.get("SpecificCharacterSet", "ISO_IR 6") not in ("ISO_IR 6", _UTF_8):
        header.decode()  # by the character set of the file, to be encoded anew
        header.SpecificCharacterSet = _UTF_8
    filled = []
    for keyword in _MAY_BE_EMPTY:
        value = header.get(keyword)
        if value is None or not _is_valid(keyword, str(value)):
            setattr(header, keyword, "")
            filled.append(keyword)
        elif keyword.endswith("Date") and "." in str(value):
            setattr(header, keyword, str(value).replace(".", ""))  # as ACR-NEMA wrote dates
    for keyword in _IF_VALID:
        if not is_empty(header, keyword) and not _is_allowed(header[keyword]):
            setattr(header, keyword, None)
            filled.append(keyword)
    return filled


def _is_allowed(element: DataElement) -> bool:
    values = element.value if element.VM > 1 else [element.value]
    try:
        for value in values:
            validate_value(element.VR, str(value), RAISE)
    except ValueError:
        return False
    return True


def _is_valid(keyword: str, value: str) -> bool:
    if keyword == "PatientSex":
        return value in ("", "M", "F", "O")
    try:
        if keyword.endswith("Date"):
            DA(value)
        elif keyword.endswith("Time"):
            TM(value)
    except ValueError:
        return False
    return True


def _time(header: Dataset, date_keyword: str, time_keyword: str) -> datetime | None:
    """A date with its time of day, midnight if that is not stated; None without a date."""
    date, time = str(header.get(date_keyword, "")), str(header.get(time_keyword, ""))
    if not date or not _is_valid(date_keyword, date):
        return None
    clock = TM(time) if _is_valid(time_keyword, time) else None
    return datetime.combine(DA(date), clock or datetime.min.time())
