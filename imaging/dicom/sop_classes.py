"""SOP classes: which objects are images, of which kind, and why others are not read."""

from dataclasses import dataclass
from typing import Literal

from pydicom.uid import UID

_STORAGE = "1.2.840.10008.5.1.4.1.1."

ImageKind = Literal["tomographic", "projection", "unknown"]


@dataclass(frozen=True)
class NoImage:
    """Why objects of a SOP class are not read: `reason` for programs, `description` for people.

    Images that are not read have a `remedy`; objects that are not images to segment have none.
    """

    reason: str
    description: str
    remedy: str = ""


# Slices of a body: they belong together, and their headers should state their positions.
_TOMOGRAPHIC = frozenset(
    _STORAGE + suffix
    for suffix in (
        "2",  # CT
        "2.1",  # Enhanced CT
        "2.2",  # Legacy Converted Enhanced CT
        "4",  # MR
        "4.1",  # Enhanced MR
        "4.3",  # Enhanced MR Color
        "4.4",  # Legacy Converted Enhanced MR
        "5",  # Nuclear Medicine (retired)
        "6.2",  # Enhanced US Volume
        "6.3",  # Photoacoustic
        "13.1.1",  # X-Ray 3D Angiographic
        "13.1.2",  # X-Ray 3D Craniofacial
        "13.1.3",  # Breast Tomosynthesis
        "20",  # Nuclear Medicine
        "77.1.5.4",  # Ophthalmic Tomography
        "128",  # PET
        "128.1",  # Legacy Converted Enhanced PET
        "130",  # Enhanced PET
    )
)

# X-ray projections: a length in the header holds in the detector's plane unless it states more.
_X_RAY = frozenset(
    _STORAGE + suffix
    for suffix in (
        "1",  # Computed Radiography
        "1.1",  # Digital X-Ray for presentation
        "1.1.1",  # Digital X-Ray for processing
        "1.2",  # Mammography for presentation
        "1.2.1",  # Mammography for processing
        "1.3",  # Intra-oral for presentation
        "1.3.1",  # Intra-oral for processing
        "12.1",  # X-Ray Angiographic
        "12.1.1",  # Enhanced XA
        "12.2",  # X-Ray Radiofluoroscopic
        "12.2.1",  # Enhanced XRF
        "12.3",  # X-Ray Angiographic Bi-Plane (retired)
        "13.1.4",  # Breast Projection for presentation
        "13.1.5",  # Breast Projection for processing
        "481.1",  # RT Image
        "481.23",  # Enhanced RT Image
        "481.24",  # Enhanced Continuous RT Image
    )
)

_CT = frozenset(_STORAGE + suffix for suffix in ("2", "2.1", "2.2"))
_PET = frozenset(_STORAGE + suffix for suffix in ("128", "128.1", "130"))
_MR_AND_NM = frozenset(_STORAGE + suffix for suffix in ("4", "4.1", "4.4", "5", "20"))
_ULTRASOUND_VOLUME = _STORAGE + "6.2"
# What the modality of a capture, or of an object of an unknown class, implies.
_X_RAY_MODALITIES = frozenset({"CR", "DX", "IO", "MG", "PX", "RF", "RG", "RTIMAGE", "XA"})
_MEASURING_MODALITIES = frozenset({"CT", "MR", "NM", "PT"})
_NUCLEAR = frozenset(_STORAGE + suffix for suffix in ("5", "20"))
_NUCLEAR_VIEWS = frozenset({"STATIC", "DYNAMIC", "GATED", "WHOLE BODY", "TOMO", "GATED TOMO"})

# Each picture stands for itself: ultrasound, captures, visible light.
_PICTURES = frozenset(
    _STORAGE + suffix
    for suffix in (
        "7",  # Secondary Capture
        "7.1",  # Multi-frame Single Bit Secondary Capture
        "7.2",  # Multi-frame Grayscale Byte Secondary Capture
        "7.3",  # Multi-frame Grayscale Word Secondary Capture
        "7.4",  # Multi-frame True Color Secondary Capture
        "3",  # Ultrasound Multi-frame (retired)
        "3.1",  # Ultrasound Multi-frame
        "6",  # Ultrasound (retired)
        "6.1",  # Ultrasound
        "14.1",  # Intravascular OCT for presentation
        "14.2",  # Intravascular OCT for processing
        "77.1.1",  # VL Endoscopic
        "77.1.2",  # VL Microscopic
        "77.1.3",  # VL Slide-Coordinates Microscopic
        "77.1.4",  # VL Photographic
        "77.1.5.1",  # Ophthalmic Photography 8 Bit
        "77.1.5.2",  # Ophthalmic Photography 16 Bit
        "77.1.5.5",  # Wide Field Ophthalmic Photography, Stereographic
        "77.1.5.6",  # Wide Field Ophthalmic Photography, 3D Coordinates
        "77.1.7",  # Dermoscopic Photography
        "77.1.8",  # Confocal Microscopy
    )
)
IMAGE_CLASSES = _TOMOGRAPHIC | _X_RAY | _PICTURES
"""All SOP classes that are images to segment."""

_SEGMENTATION = NoImage("segmentation", "a segmentation")
_REGISTRATION = NoImage("registration", "a spatial registration or fiducials")
_VIDEO = NoImage(
    "video", "a video", "which is not read: save the frames to be measured as pictures or DICOM"
)
_WHOLE_SLIDE = "which is not read: save the region to be measured as a picture"
_NO_IMAGES = {
    _STORAGE + "66": NoImage("raw_data", "raw data"),
    _STORAGE + "66.1": _REGISTRATION,
    _STORAGE + "66.2": _REGISTRATION,
    _STORAGE + "66.3": _REGISTRATION,
    _STORAGE + "66.4": _SEGMENTATION,
    _STORAGE + "66.5": _SEGMENTATION,
    _STORAGE + "66.6": NoImage("tractography", "tractography results"),
    _STORAGE + "66.7": _SEGMENTATION,
    _STORAGE + "67": NoImage("value_mapping", "a real world value mapping"),
    _STORAGE + "68.1": NoImage("surface", "a surface scan"),
    _STORAGE + "68.2": NoImage("surface", "a surface scan"),
    _STORAGE + "4.2": NoImage("spectroscopy", "a spectroscopy measurement"),
    _STORAGE + "30": NoImage(
        "parametric_map",
        "a parametric map",
        "which is not read: save it as NIfTI or as images of its modality",
    ),
    _STORAGE + "77.1.6": NoImage("whole_slide", "a whole slide image", _WHOLE_SLIDE),
    _STORAGE + "77.1.9": NoImage("whole_slide", "a tiled microscopy image", _WHOLE_SLIDE),
    _STORAGE + "77.1.1.1": _VIDEO,
    _STORAGE + "77.1.2.1": _VIDEO,
    _STORAGE + "77.1.4.1": _VIDEO,
    _STORAGE + "88.59": NoImage("key_objects", "a selection of key objects"),
    _STORAGE + "481.2": NoImage("rt_dose", "a radiotherapy dose"),
    _STORAGE + "481.3": NoImage("rtstruct", "a radiotherapy structure set"),
    "1.2.840.10008.1.3.10": NoImage("dicomdir", "a directory of DICOM files"),
}
_NO_IMAGE_FAMILIES = {
    _STORAGE + "88.": NoImage("report", "a structured report"),
    _STORAGE + "11.": NoImage("presentation_state", "a presentation state"),
    _STORAGE + "104.": NoImage("encapsulated_document", "an encapsulated document"),
    _STORAGE + "9.": NoImage("waveform", "a waveform"),
    _STORAGE + "481.": NoImage("rt_plan", "a radiotherapy plan or record"),
    "1.2.840.10008.5.1.4.34.": NoImage("rt_plan", "a radiotherapy instruction"),
}
# For objects without a SOP class, and for private and trial classes.
_NO_IMAGE_MODALITIES = {
    "SEG": _SEGMENTATION,
    "SR": _NO_IMAGE_FAMILIES[_STORAGE + "88."],
    "PR": _NO_IMAGE_FAMILIES[_STORAGE + "11."],
    "KO": _NO_IMAGES[_STORAGE + "88.59"],
    "REG": _REGISTRATION,
    "RTSTRUCT": _NO_IMAGES[_STORAGE + "481.3"],
    "RTDOSE": _NO_IMAGES[_STORAGE + "481.2"],
    "RTPLAN": _NO_IMAGE_FAMILIES[_STORAGE + "481."],
    "RWV": _NO_IMAGES[_STORAGE + "67"],
    "ECG": _NO_IMAGE_FAMILIES[_STORAGE + "9."],
    "DOC": _NO_IMAGE_FAMILIES[_STORAGE + "104."],
    "SM": _NO_IMAGES[_STORAGE + "77.1.6"],
}


def no_image(sop_class: str, modality: str) -> NoImage | None:
    """Why an object is not an image to segment, or not read; None if it is one, or may be."""
    if sop_class in IMAGE_CLASSES:
        return None
    if sop_class in _NO_IMAGES:
        return _NO_IMAGES[sop_class]
    families = (kind for family, kind in _NO_IMAGE_FAMILIES.items() if sop_class.startswith(family))
    return next(families, _NO_IMAGE_MODALITIES.get(modality))


def kind_of(sop_class: str) -> ImageKind:
    """Slices of a body, independent pictures (projections, captures), or an unknown class."""
    if sop_class in _TOMOGRAPHIC:
        return "tomographic"
    return "projection" if sop_class in IMAGE_CLASSES else "unknown"


def is_nuclear(sop_class: str) -> bool:
    """True for nuclear medicine, which describes its frames by vectors of numbers."""
    return sop_class in _NUCLEAR


def is_planar(sop_class: str, image_type: str) -> bool:
    """True for independent pictures, which are not slices of a body.

    Projections, captures, visible light, and views of nuclear medicine that were not
    reconstructed, by the third value of ImageType (PS3.3 C.8.4.9.1.1).
    """
    kind = (image_type.upper().split("\\") + [""] * 3)[2]
    views = is_nuclear(sop_class) and kind in _NUCLEAR_VIEWS
    return views or kind_of(sop_class) == "projection"


def has_pixels(sop_class: str) -> bool:
    """Whether a complete object of the class has pixels, as far as its name shows.

    A UID that is truncated itself, or unknown, may be that of an image.
    """
    if kind_of(sop_class) != "unknown":
        return True
    name = UID(sop_class).name
    if name != sop_class:
        return "Image" in name
    return sop_class.startswith(_STORAGE) or _STORAGE.startswith(sop_class)


def is_x_ray(sop_class: str, modality: str) -> bool:
    """True for projection radiography, where lengths depend on the magnification."""
    return sop_class in _X_RAY or (sop_class not in _TOMOGRAPHIC and modality in _X_RAY_MODALITIES)


def often_annotated(sop_class: str) -> bool:
    """True for captures, ultrasound and visible light, which often have a name burned in."""
    return sop_class in _PICTURES or sop_class == _ULTRASOUND_VOLUME


def stores_ct(sop_class: str) -> bool:
    """True for the classes of CT images: Hounsfield units, unless the image states another."""
    return sop_class in _CT


def is_ct(sop_class: str, modality: str) -> bool:
    """True where pixel values should be Hounsfield units: CT images, and captures of them."""
    return sop_class in _CT or modality == "CT"


def is_pet(sop_class: str, modality: str) -> bool:
    """True where pixel values should be standardised uptake values."""
    return sop_class in _PET or modality == "PT"


def is_measured(sop_class: str, modality: str) -> bool:
    """True where pixel values are a measured quantity, not made to be looked at.

    CT, MR, PET and nuclear medicine, by their class, and by modality where the class is unknown.
    """
    if kind_of(sop_class) == "unknown":
        return modality in _MEASURING_MODALITIES
    return sop_class in _CT | _PET | _MR_AND_NM
