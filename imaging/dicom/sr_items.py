"""Content items of structured reports: one coded name and value each, encoded with little work.

A report of 300 slices has ten thousand coded names, but only some thirty different ones. Each is
encoded once here and then copied as bytes, which takes a fifth of the time of highdicom's content
items. The items are ordinary datasets: pydicom and highdicom read them like those of a file.
"""

from collections.abc import Iterable
from functools import cache

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.valuerep import format_number_as_ds

from wsseg.imaging.dicom.codes import Code

CHARACTER_SET = "ISO_IR 192"
"""Unicode in UTF-8: names of classes and meanings of codes may be in any language."""
ENCODING = convert_encodings(CHARACTER_SET)
"""The same, as pydicom keeps it with a data set."""

_NAME = Tag("ConceptNameCodeSequence")
_VALUE = Tag("ConceptCodeSequence")
_UNIT = Tag("MeasurementUnitsCodeSequence")
CONTENT = Tag("ContentSequence")

CONTAINS = "CONTAINS"
CONTEXT = "HAS OBS CONTEXT"
MODIFIER = "HAS CONCEPT MOD"
PROPERTY = "HAS PROPERTIES"

ONE = Code(scheme="UCUM", value="1", meaning="no units")


def empty_dataset() -> Dataset:
    """A data set whose elements count as encoded the way in which the report is written.

    pydicom then writes encoded names as they are, and does not search the whole tree below for
    elements whose type depends on others, of which a report has none.
    """
    dataset = Dataset(parent_encoding=ENCODING)
    dataset.set_original_encoding(False, True, ENCODING)
    return dataset


def text_item(name: Code, text: str, relation: str = CONTEXT) -> Dataset:
    """A text."""
    item = _item("TEXT", name, relation)
    item.TextValue = text
    return item


def uid_item(name: Code, uid: str, relation: str = CONTEXT) -> Dataset:
    """A UID of something that is not an image, such as a tracked region or a series."""
    item = _item("UIDREF", name, relation)
    item.UID = uid
    return item


def code_item(name: Code, value: Code, relation: str = CONTAINS) -> Dataset:
    """A coded answer to the question `name`."""
    item = _item("CODE", name, relation)
    item[_VALUE] = _encoded(_VALUE, value)
    return item


def number_item(
    name: Code,
    value: float,
    unit: Code = ONE,
    *,
    relation: str = CONTAINS,
    children: Iterable[Dataset] = (),
) -> Dataset:
    """A number with its unit; `children` say more about it.

    NumericValue has at most 16 characters, which is 14 digits or fewer; FloatingPointValue beside
    it is exact. A count has no need of it.
    """
    measured = empty_dataset()
    if isinstance(value, int):
        measured.NumericValue = str(value)
    else:
        text = format_number_as_ds(value)
        measured.NumericValue = text if "e" in text else text.rstrip("0").removesuffix(".")
        measured.FloatingPointValue = value
    measured[_UNIT] = _encoded(_UNIT, unit)
    item = _item("NUM", name, relation)
    item.MeasuredValueSequence = [measured]
    if content := list(children):
        item.ContentSequence = content
    return item


def image_item(
    name: Code,
    sop_class_uid: str,
    instance_uid: str,
    *,
    frame: int | None = None,
    segment: int | None = None,
) -> Dataset:
    """A reference to an image, one of its frames, or one segment of a segmentation.

    A frame and a segment exclude each other (PS3.3, table 10-3).
    """
    reference = empty_dataset()
    reference.ReferencedSOPClassUID = sop_class_uid
    reference.ReferencedSOPInstanceUID = instance_uid
    if frame is not None:
        reference.ReferencedFrameNumber = frame
    if segment is not None:
        reference.ReferencedSegmentNumber = segment
    item = _item("IMAGE", name, CONTAINS)
    item.ReferencedSOPSequence = [reference]
    return item


def container_item(name: Code, template: str, content: Iterable[Dataset]) -> Dataset:
    """A container of items, by the template of that number in DICOM PS3.16."""
    item = _item("CONTAINER", name, CONTAINS)
    item.ContinuityOfContent = "CONTINUOUS"
    used = empty_dataset()
    used.MappingResource = "DCMR"
    used.TemplateIdentifier = template
    item.ContentTemplateSequence = [used]
    item.ContentSequence = list(content)
    return item


def _item(value_type: str, name: Code, relation: str) -> Dataset:
    item = empty_dataset()
    item.RelationshipType = relation
    item.ValueType = value_type
    item[_NAME] = _encoded(_NAME, name)
    return item


@cache
def _encoded(tag: int, code: Code) -> RawDataElement:
    """A sequence of one code, encoded."""
    coded = Dataset()
    if len(code.value) > 16:
        coded.LongCodeValue = code.value
    else:
        coded.CodeValue = code.value
    coded.CodingSchemeDesignator = code.scheme
    coded.CodeMeaning = code.meaning
    whole = Dataset()
    whole.add(DataElement(tag, "SQ", Sequence([coded])))
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_dataset(file, whole, CHARACTER_SET)
    # Without the tag, the type, two reserved bytes and the length before the value.
    value = file.getvalue()[12:]
    return RawDataElement(Tag(tag), "SQ", len(value), value, 0, False, True)
