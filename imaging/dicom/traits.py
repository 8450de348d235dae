"""What tells images of one place apart: time, echo, weighting, phase, quantity, and their kin."""

from collections.abc import Mapping

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from wsseg.imaging.dicom.sop_classes import is_nuclear
from wsseg.imaging.dicom.values import first_item, items, numbers, text

# Names of traits, the most telling first. Each that DICOM knows in single images is the
# keyword of its element there.
TELLING = (
    "TemporalPositionIdentifier",
    "EchoTime",
    "EchoNumbers",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "InversionTime",
    "FlipAngle",
    "RepetitionTime",
    "NominalCardiacTriggerDelayTime",
    "NominalPercentageOfCardiacPhase",
    "NominalRespiratoryTriggerDelayTime",
    "NominalPercentageOfRespiratoryPhase",
    "VelocityEncodingDirection",
    "ASLContext",
    "KVP",
    "ConvolutionKernel",
    "DataType",
    "ImageType",
    "SequenceName",
    "TriggerTime",
    "FrameReferenceTime",
    "TemporalPositionTimeOffset",
    "AcquisitionNumber",
    "AcquisitionDateTime",
    "AcquisitionTime",
)
# These differ within one scan as well, whose slices were acquired in turns: odd ones, then even.
PASSING = frozenset(
    (
        "RepetitionTime",
        "TriggerTime",
        "FrameReferenceTime",
        "TemporalPositionTimeOffset",
        "AcquisitionNumber",
        "AcquisitionDateTime",
        "AcquisitionTime",
    )
)
# Of these that is common: one phase or beat of the heart for odd slices, another for even ones.
GATED = frozenset(("RepetitionTime", "TriggerTime", "FrameReferenceTime"))
# Numbers that are calculated, and end in digits that mean nothing.
ROUNDED = frozenset(("EchoTime", "InversionTime", "FlipAngle", "RepetitionTime", "KVP"))
# Read of every image's top level, where single images have them.
TOP_KEYWORDS = (
    "TemporalPositionIdentifier",
    "EchoTime",
    "EchoNumbers",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "InversionTime",
    "FlipAngle",
    "RepetitionTime",
    "NominalCardiacTriggerDelayTime",
    "KVP",
    "ConvolutionKernel",
    "ImageType",
    "SequenceName",
    "TriggerTime",
    "FrameReferenceTime",
    "AcquisitionNumber",
    "AcquisitionDateTime",
    "AcquisitionTime",
)
# In functional groups the same facts have names of their own: (macro, element) to name.
_IN_GROUPS = {
    ("FrameContentSequence", "TemporalPositionIndex"): "TemporalPositionIdentifier",
    ("FrameContentSequence", "FrameAcquisitionNumber"): "AcquisitionNumber",
    ("FrameContentSequence", "FrameAcquisitionDateTime"): "AcquisitionDateTime",
    ("TemporalPositionSequence", "TemporalPositionTimeOffset"): "TemporalPositionTimeOffset",
    ("MREchoSequence", "EffectiveEchoTime"): "EchoTime",
    ("MRDiffusionSequence", "DiffusionBValue"): "DiffusionBValue",
    ("MRModifierSequence", "InversionTimes"): "InversionTime",
    ("MRTimingAndRelatedParametersSequence", "FlipAngle"): "FlipAngle",
    ("MRTimingAndRelatedParametersSequence", "RepetitionTime"): "RepetitionTime",
    ("MRVelocityEncodingSequence", "VelocityEncodingDirection"): "VelocityEncodingDirection",
    ("MRArterialSpinLabelingSequence", "ASLContext"): "ASLContext",
    ("CTXRayDetailsSequence", "KVP"): "KVP",
    ("CTReconstructionSequence", "ConvolutionKernel"): "ConvolutionKernel",
    ("ImageDataTypeSequence", "DataType"): "DataType",
    **{
        ("CardiacSynchronizationSequence", name): name
        for name in ("NominalCardiacTriggerDelayTime", "NominalPercentageOfCardiacPhase")
    },
    **{
        ("RespiratorySynchronizationSequence", name): name
        for name in ("NominalRespiratoryTriggerDelayTime", "NominalPercentageOfRespiratoryPhase")
    },
    # Converted from single images, whose elements were kept as they were.
    **{("UnassignedPerFrameConvertedAttributesSequence", name): name for name in TOP_KEYWORDS},
}
_FRAME_TYPES = (
    "MRImageFrameTypeSequence",
    "CTImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "XRay3DFrameTypeSequence",
    "USImageDescriptionSequence",
    "PhotoacousticImageFrameTypeSequence",
    "IntravascularOCTFrameTypeSequence",
)
_GRADIENT = ("DiffusionGradientDirectionSequence", "DiffusionGradientOrientation")
_NUCLEAR_VECTORS = (
    "EnergyWindowVector",
    "DetectorVector",
    "PhaseVector",
    "RotationVector",
    "AngularViewVector",
    "RRIntervalVector",
    "TimeSlotVector",
    "TimeSliceVector",
)
# Tags that `frame_traits` reads.
TRAIT_KEYWORDS = ("SOPClassUID", *_NUCLEAR_VECTORS)

_BY_MACRO: dict[BaseTag, list[tuple[str, str]]] = {}
for (_macro, _element), _name in _IN_GROUPS.items():
    _BY_MACRO.setdefault(Tag(_macro), []).append((_element, _name))
_TYPE_TAGS = {Tag(name) for name in _FRAME_TYPES}
_DIFFUSION, _CONTENT = Tag("MRDiffusionSequence"), Tag("FrameContentSequence")

Traits = tuple[str, ...]
"""Values of TELLING as text, "" where nothing is said; then the dimension indices of a frame."""


def top_traits(dataset: Dataset) -> Traits:
    """The traits that the top level of an image gives."""
    return _in_order({keyword: text(dataset, keyword) for keyword in TOP_KEYWORDS})


def frame_traits(dataset: Dataset, count: int, top: Traits) -> list[tuple[str, Traits]]:
    """Of each frame: the stack it belongs to, "" where it is of none, and its traits.

    A stack is what the source calls one: a StackID, or a time slot or detector of nuclear
    medicine. What no group of a frame says, `top` says for all.
    """
    if is_nuclear(text(dataset, "SOPClassUID")):
        vectors = [numbers(dataset, keyword, count) for keyword in _NUCLEAR_VECTORS]
        slots = zip(*(vector for vector in vectors if vector), strict=True)
        stacks = ["\\".join(f"{value:g}" for value in slot) for slot in slots] or [""] * count
        return [(stack, top) for stack in stacks]
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    _, common = _group_traits(shared)
    defaults = dict(zip(TELLING, top, strict=False)) | common
    found = []
    for group in [*own, *[Dataset()] * (count - len(own))][:count]:
        content = first_item(group, "FrameContentSequence")
        indices, told = _group_traits(group)
        found.append((text(content, "StackID"), _in_order(defaults | told) + indices))
    return found


def _group_traits(group: Dataset) -> tuple[tuple[str, ...], dict[str, str]]:
    """Dimension indices and named facts of one group."""
    told: dict[str, str] = {}
    indices: tuple[str, ...] = ()
    for tag in map(BaseTag, group.keys()):  # to iterate over elements would parse each of them
        read = tag in _BY_MACRO or tag in _TYPE_TAGS
        for item in _items(group, tag) if read else ():
            named = {name: text(item, keyword) for keyword, name in _BY_MACRO.get(tag, ())}
            told |= {name: value for name, value in named.items() if value}
            told |= _frame_type(item) if tag in _TYPE_TAGS else {}
            told |= _gradient(item) if tag == _DIFFUSION else {}
            if tag == _CONTENT:
                indices = tuple(text(item, "DimensionIndexValues").split("\\"))
    return indices, told


def _items(group: Dataset, tag: int) -> list[Dataset]:
    try:
        return list(group[tag].value)
    except Exception:  # pydicom raises many kinds on malformed sequences
        return []


def _frame_type(item: Dataset) -> dict[str, str]:
    parts = (text(item, "FrameType"), text(item, "ComplexImageComponent"))
    return {"ImageType": "\\".join(part for part in parts if part)}


def _gradient(item: Dataset) -> dict[str, str]:
    """The direction of a diffusion weighting; trace and isotropic images have none."""
    directions = [text(one, _GRADIENT[1]) for one in items(item, _GRADIENT[0])]
    known = [direction for direction in directions if direction]
    kind = text(item, "DiffusionDirectionality")
    return {_GRADIENT[1]: known[0] if known else kind} if known or kind else {}


def _in_order(named: Mapping[str, str]) -> Traits:
    return tuple(named.get(name, "") for name in TELLING)
