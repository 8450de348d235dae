"""Headers of NIfTI and Analyze files, and of FreeSurfer's volumes (.mgh, .mgz)."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from nibabel.spm99analyze import Spm99AnalyzeHeader

from wsseg.imaging.errors import ReadError
from wsseg.imaging.orientation import Affine, grid_distance, voxel_mm
from wsseg.imaging.volume_header import (
    Layout,
    NoImageError,
    VolumeHeader,
    bad_header,
    check_layout,
    colour_channels,
    file_packing,
    known_lengths,
    open_unpacked,
    usable,
    vectors,
)

HEADER_BYTES = 540  # of NIfTI-2, the longer one

# Two affines differ when a corner of the grid moves by this part of the smallest voxel edge:
# above the rounding of a float32 quaternion, below what an overlay would show.
AFFINE_TOLERANCE = 0.1
# A quaternion whose norm is this far above 1 was rounded, as float32 or in a text; one beyond is
# no rotation.
QUATERNION_TOLERANCE = 1e-3

_MILLIMETRES = {1: 1e3, 2: 1.0, 3: 1e-3}  # xyzt_units: metre, mm, micron; unknown counts as mm
_HEADER_KINDS: tuple[Any, ...] = (Nifti1Header, Nifti2Header)  # nibabel has no types for them

_FORM_FIELDS = {
    "sform": ("sform_code", "srow_x", "srow_y", "srow_z"),
    "qform": (
        *("qform_code", "quatern_b", "quatern_c", "quatern_d"),
        *("qoffset_x", "qoffset_y", "qoffset_z"),
    ),
}

# Intent codes, https://nifti.nimh.nih.gov/nifti-1/documentation/nifti1fields
_STATISTICS = {*range(2, 25), 1001}  # 1001: estimates of a parameter
_LABELS = {1002: "class numbers", 1003: "anatomical labels"}
_COLOURS = (1007, 2003, 2004)  # vectors, RGB and RGBA: three or four bytes are colours
_NO_IMAGES = {
    1006: "a displacement field",
    1008: "a set of points",
    1009: "triangles of a surface",
    2002: "numbers of a surface's nodes",
    2005: "a surface's shape",
    **dict.fromkeys((2006, 2007, 2008, 2009), "a displacement field or its coefficients"),
    **dict.fromkeys((2016, 2017, 2018), "a distortion field or its coefficients"),
    **dict.fromkeys(range(3000, 3021), "a CIFTI matrix"),
}
_SEVERAL_VALUES = {
    1004: "matrices",
    1005: "symmetric matrices",
    1007: "vectors",  # unless they are colours
    1010: "quaternions",
}


def read_nifti(path: Path, source: str) -> VolumeHeader:
    """The header of a NIfTI-1, NIfTI-2 or Analyze file of either byte order, packed or not.

    A single file holds header and voxels; otherwise `path` is the .hdr or .img of a pair. Raises
    ReadError for a header that cannot be true, and NoImageError for an intent that is no image.
    """
    path = _sibling(path, ".hdr") or path
    with open_unpacked(path) as stream:
        block = stream.read(HEADER_BYTES)
    for kind in _HEADER_KINDS:
        if len(block) >= kind.sizeof_hdr and kind.may_contain_header(block):
            header = kind(block[: kind.sizeof_hdr], check=False)
            return _nifti(header, path, source)
    if is_analyze(block) and _sibling(path, ".hdr"):
        header = Spm99AnalyzeHeader(block[: Spm99AnalyzeHeader.sizeof_hdr], check=False)
        return _analyze(header, path, source)
    raise ReadError(
        "not_nifti", f"{source} has no NIfTI-1 or NIfTI-2 header: convert it with dcm2niix"
    )


def is_analyze(block: bytes) -> bool:
    """Whether a file starts like an Analyze header: with its own length, and no magic of NIfTI."""
    lengths = ((348).to_bytes(4, "little"), (348).to_bytes(4, "big"))
    return block.startswith(lengths) and block[344:347] not in (b"n+1", b"ni1")


def _sibling(path: Path, suffix: str) -> Path | None:
    """The other file of a pair (or the same), in the same letter case; None outside a pair."""
    compression = path.suffix if path.suffix.lower() == ".gz" else ""
    plain = path.with_name(path.name.removesuffix(compression))
    if plain.suffix.lower() not in (".hdr", ".img"):
        return None
    same_case = suffix.upper() if plain.suffix.isupper() else suffix
    other = plain.with_suffix(same_case)
    candidates = (other.with_name(other.name + end) for end in (compression, "", ".gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _nifti(header: Nifti1Header, path: Path, source: str) -> VolumeHeader:
    single = header["magic"].item() == header.single_magic
    data = path if single else _data_path(path, source)
    intent = int(header["intent_code"])
    if intent in _NO_IMAGES:
        raise NoImageError("no_image", f"{source} is {_NO_IMAGES[intent]}, not an image to segment")
    layout = _layout(header, intent, source, single=single)
    packing = file_packing(data)
    check_layout(layout, data, packing, source)
    affine, flags = _placement(header, layout.shape, source)
    return VolumeHeader(
        layout=layout,
        data=data,
        packing=packing,
        affine=affine,
        lengths_mm=known_lengths(header["pixdim"][1:4] * millimetres(header)),
        flags=flags,
        label_map=_LABELS.get(intent, ""),
        nifti=header,
    )


def _analyze(header: Spm99AnalyzeHeader, path: Path, source: str) -> VolumeHeader:
    """An Analyze pair: lengths, but no directions, not even which side is left."""
    data = _data_path(path, source)
    shape, volumes, values = _shape(header, source)
    if values > 1:
        raise vectors(source, f"{values} values a voxel")
    dtype = _dtype(header, source)
    slope = float(header["scl_slope"])
    layout = Layout(
        shape,
        volumes,
        dtype,
        int(_voxel_offset(header, source)),
        slope=slope if math.isfinite(slope) and slope else 1.0,
    )
    packing = file_packing(data)
    check_layout(layout, data, packing, source)
    lengths = known_lengths(np.abs(header["pixdim"][1:4]))  # a minus told of a mirrored axis
    return VolumeHeader(layout, data, packing, None, lengths, ("NO_ORIENTATION",))


def _data_path(path: Path, source: str) -> Path:
    """The file with the voxels of a .hdr/.img pair. Raises ReadError when it is not there."""
    found = _sibling(path, ".img")
    if found is None:
        raise ReadError("no_img_file", f"{source} has no .img file beside it: copy both files")
    return found


def _layout(header: Nifti1Header, intent: int, source: str, *, single: bool) -> Layout:
    shape, volumes, values = _shape(header, source)
    dtype = _dtype(header, source)
    stated = intent in _COLOURS or (intent == 0 and values > 1)
    if intent in _COLOURS and values == 1 and volumes in (3, 4):
        volumes, values = 1, volumes  # the channels stand where time does
    colours = stated and values in (3, 4) and dtype == np.uint8
    if max(values, volumes) > 1 and not colours:
        if intent in _SEVERAL_VALUES:
            raise vectors(source, _SEVERAL_VALUES[intent])
        if intent in _STATISTICS:
            raise vectors(source, f"{max(values, volumes)} statistics a voxel")
    channels = colour_channels(values, dtype, stated=stated, source=source)
    start = _voxel_offset(header, source)
    if single and start == 0:
        start = header.single_vox_offset  # as every reader takes it: the header lies at 0
    if single and start < header.sizeof_hdr:
        raise bad_header(source, f"voxel offset {start:g}")
    try:
        slope, offset = header.get_slope_inter()
    except HeaderDataError as error:
        raise bad_header(source, f"rescale intercept {header['scl_inter']}") from error
    if slope is None or dtype.names:  # a slope of 0 means "not scaled"; colours are never scaled
        slope, offset = 1.0, 0.0
    order = "ijkvc" if channels > 1 else "ijkv"
    return Layout(shape, volumes, dtype, int(start), slope, offset, channels, order)


def _dtype(header: Any, source: str) -> np.dtype[np.generic]:
    try:
        dtype: np.dtype[np.generic] = np.dtype(header.get_data_dtype())
    except (KeyError, HeaderDataError) as error:
        raise bad_header(source, f"data type code {int(header['datatype'])}") from error
    return dtype


def _voxel_offset(header: Any, source: str) -> float:
    start = float(header["vox_offset"])
    if not 0 <= start < 2**40:
        raise bad_header(source, f"voxel offset {start}")
    return start


def _shape(header: Any, source: str) -> tuple[tuple[int, int, int], int, int]:
    """The grid (i, j, k), how many times, and how many values at each place: dim 1-3, 4 and 5."""
    count = int(header["dim"][0])
    sizes = [int(size) for size in header["dim"][1 : count + 1]]
    # Dimensions that are not used are 1, and 0 in some writers' files.
    sizes[3:] = [size or 1 for size in sizes[3:]]
    if not 1 <= count <= 7 or min(sizes) < 1:
        raise bad_header(source, f"dimensions {[int(size) for size in header['dim']]}")
    if count == 1:
        raise ReadError("not_an_image", f"{source} holds a row of {sizes[0]} values, no image")
    time, values, *rest = (*sizes[3:], 1, 1)
    if any(size > 1 for size in rest):
        raise ReadError(
            "too_many_dimensions",
            f"{source} has shape {tuple(sizes)}, at most four may exceed 1: save the volumes apart",
        )
    return (sizes[0], sizes[1], sizes[2] if count > 2 else 1), time, values


def _placement(
    header: Nifti1Header, shape: tuple[int, int, int], source: str
) -> tuple[Affine | None, tuple[str, ...]]:
    """The affine from (i, j, k, 1) to RAS+ mm, and flags about it.

    The sform has precedence over the qform. One that cannot be used is cleared in the header, with
    the flag AFFINE_IGNORED, and the other replaces it. None and NO_ORIENTATION when the header sets
    neither; AFFINES_DIFFER when it sets two that disagree. Raises ReadError when none of those
    that it sets can be used.
    """
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1  # the standard reads 0 as 1
    coded = [name for name in ("sform", "qform") if header[f"{name}_code"] > 0]
    if not coded:
        return None, ("NO_ORIENTATION",)
    forms = {"sform": header.get_sform(), "qform": _qform(header)}
    if shape[2] == 1:
        forms = {name: form if form is None else _thick(form) for name, form in forms.items()}
    good = [form for name in coded if (form := forms[name]) is not None and usable(form)]
    if not good:
        raise ReadError(
            "bad_affine",
            f"{source} has an affine that is not finite or not invertible: repair its "
            "sform and qform or convert the scan again",
        )
    flags: tuple[str, ...] = ()
    if len(good) < len(coded):
        flags = ("AFFINE_IGNORED",)
        # Cleared, so that no copy of the header hands it on.
        for field in _FORM_FIELDS["qform" if good[0] is forms["sform"] else "sform"]:
            header[field] = 0
    if len(good) == 2:
        limit = AFFINE_TOLERANCE * voxel_mm(good[0]).min()
        flags = ("AFFINES_DIFFER",) if grid_distance(good[0], good[1], shape) > limit else ()
    scale = np.diag([*[millimetres(header)] * 3, 1.0])
    return scale @ good[0], flags


def _thick(affine: Affine) -> Affine:
    """The affine of a single slice, with a step of 1 mm along its normal where it states 0."""
    if affine[:3, 2].any():
        return affine
    thick = affine.copy()
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    thick[:3, 2] = normal / (np.linalg.norm(normal) or 1.0)
    return thick


def millimetres(header: Nifti1Header) -> float:
    """How many mm one spatial unit of the header is."""
    return _MILLIMETRES.get(int(header["xyzt_units"]) & 0b111, 1.0)


def _qform(header: Nifti1Header) -> Affine | None:
    """The affine of the quaternion; None where it holds no rotation or no length.

    A norm that was rounded above 1 is set to 1 in the header, as the reference library does.
    """
    fields = [f"quatern_{axis}" for axis in "bcd"]
    norm = math.sqrt(sum(float(header[field]) ** 2 for field in fields))
    if 1 < norm <= 1 + QUATERNION_TOLERANCE:
        for field in fields:
            header[field] = header[field] / norm
    try:
        qform: Affine = header.get_qform()
    except (HeaderDataError, ValueError):
        return None
    return qform


_MGH_VERSION = b"\0\0\0\x01"
_NUMBERS_END = 30  # of the seven numbers and the flag that begin the header
_LARGEST_SIDE = 1 << 20


def is_mgh(start: bytes) -> bool:
    """Whether a file starts like an MGH volume: its version, then four sizes and a type."""
    if not start.startswith(_MGH_VERSION) or len(start) < _NUMBERS_END:
        return False
    *sizes, kind = np.frombuffer(start, ">i4", 5, offset=4).tolist()
    flag = int.from_bytes(start[28:30], "big")
    return all(0 < size < _LARGEST_SIDE for size in sizes) and kind in range(11) and flag in (0, 1)


def read_mgh(path: Path, source: str) -> VolumeHeader:
    """The header of an MGH file, packed or not. Raises ReadError for one that cannot be true.

    Without its goodRASFlag the header knows neither lengths nor directions.
    """
    packing = file_packing(path)
    with open_unpacked(path) as stream:
        block = stream.read(MGHHeader.template_dtype.itemsize)
    if len(block) < MGHHeader.template_dtype.itemsize:
        raise ReadError("truncated", f"{source} ends within its header: copy or export it again")
    # nibabel fills in a position where the flag says that there is none.
    placed = int.from_bytes(block[28:30], "big") == 1
    header = MGHHeader(block, check=False)
    try:
        dtype = np.dtype(header.get_data_dtype()).newbyteorder(">")
    except (KeyError, HeaderDataError) as error:
        raise bad_header(source, f"data type code {int(header['type'])}") from error
    *shape, frames = (int(size) for size in header["dims"])
    size_i, size_j, size_k = shape
    layout = Layout((size_i, size_j, size_k), frames, dtype, header.get_data_offset())
    check_layout(layout, path, packing, source)
    affine: Affine | None = header.get_affine() if placed else None
    if affine is not None and not usable(affine):
        raise bad_header(source, "direction or voxel size")
    flags = () if placed else ("NO_ORIENTATION",)
    lengths = known_lengths(header["delta"] if placed else ())
    return VolumeHeader(layout, path, packing, affine, lengths, flags)
