"""Scans with marks wherever their formats have room for an identity, and the search for them."""

import gzip
import re
import zipfile
import zlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
from nibabel.analyze import AnalyzeImage
from nibabel.freesurfer.mghformat import MGHImage
from nibabel.nifti1 import Nifti1Extension, Nifti1Image
from PIL import Image, PngImagePlugin
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage, UltrasoundMultiFrameImageStorage

from tests.imaging.conftest import _write_dicom

SIDE = 32
IDENTITY = {
    "PatientName": "Canary-name^Patient",
    "PatientID": "Canary-id",
    "IssuerOfPatientID": "Canary-issuer",
    "OtherPatientIDs": "Canary-other-id",
    "PatientBirthDate": "19010203",
    "PatientAddress": "Canary-address",
    "PatientComments": "Canary-comment",
    "AdditionalPatientHistory": "Canary-history",
    "StudyDate": "19990807",
    "SeriesDate": "19990808",
    "ContentDate": "19990809",
    "AcquisitionDate": "19990806",
    "StudyTime": "112233.445566",
    "StudyID": "Canary-study-id",
    "AccessionNumber": "Canary-acc",
    "InstitutionName": "Canary-clinic",
    "InstitutionAddress": "Canary-street",
    "InstitutionalDepartmentName": "Canary-ward",
    "ReferringPhysicianName": "Canary-doctor^D",
    "PerformingPhysicianName": "Canary-performer",
    "OperatorsName": "Canary-operator",
    "StationName": "Canary-station",
    "DeviceSerialNumber": "Canary-serial",
    "StudyDescription": "Canary-study",
    "SeriesDescription": "Canary-series",
    "ProtocolName": "Canary-protocol",
    "ImageComments": "Canary-image",
    "DerivationDescription": "Canary-derivation",
}
"""DICOM elements that say who and when a patient was."""
PRIVATE = "Canary-private"
NESTED = "Canary-nested"
_MARK = re.compile(
    rb"canary[-\w]*|1901-?02-?03|1999-?08-?0[6-9]|112233\.445566|11:22:33", re.IGNORECASE
)


def marks(content: bytes) -> set[str]:
    """The marks in some bytes, also as text of two bytes a character, and across line ends."""
    seen = [content, content.replace(b"\0", b""), re.sub(rb"\s+", b"", content)]
    return {found.decode() for text in seen for found in _MARK.findall(text)}


def marks_below(folder: Path) -> dict[str, set[str]]:
    """The marks in the names and contents of files, packed or not, by the file that has them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        texts = [name.encode(), *(_contents(path) if path.is_file() else ())]
        if seen := set().union(*map(marks, texts)):
            found[name] = seen
    return found


def _contents(path: Path) -> Iterator[bytes]:
    content = path.read_bytes()
    yield content
    if content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    # Texts of a PNG may be deflated.
    for start in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", content):
        try:
            yield zlib.decompressobj().decompress(content[start.start() :], 1 << 16)
        except zlib.error:
            continue


def bright(dtype: Any = np.int16) -> np.ndarray:
    pixels: np.ndarray = np.zeros((SIDE, SIDE), dtype)
    pixels[8:18, 10:22] = 150
    return pixels


def write_marked(folder: Path) -> Path:
    """Write a scan of each kind that is read, and files that are none; no name has a mark."""
    folder.mkdir(parents=True)
    write_marked_dicom(folder / "dicom")
    write_marked_volumes(folder / "volumes")
    write_marked_pictures(folder / "pictures")
    with zipfile.ZipFile(folder / "packed.zip", "w") as archive:
        archive.comment = b"Canary-archive"
        for path in write_marked_dicom(folder / "packed", series="1.2.3.77"):
            archive.write(path, f"packed/{path.name}")
            path.unlink()
    (folder / "packed").rmdir()
    (folder / "letter.txt").write_text("Canary-letter", encoding="utf-8")
    return folder


def write_marked_dicom(folder: Path, series: str = "1.2.3.7") -> list[Path]:
    """A series, a multi-frame image, a text report, and a slice whose pixel size is a mark."""
    written = [
        dicom(
            folder / f"{number}.dcm",
            bright(),
            SeriesInstanceUID=f"{series}.1",
            ImagePositionPatient=[0.0, 0.0, 2.0 * number],
        )
        for number in range(3)
    ]
    written.append(
        dicom(
            folder / "frames.dcm",
            np.stack([bright(np.uint8)] * 2),
            SOPClassUID=UltrasoundMultiFrameImageStorage,
            SeriesInstanceUID=f"{series}.2",
            Modality="US",
            NumberOfFrames=2,
        )
    )
    report: dict[str, Any] = {
        "SOPClassUID": BasicTextSRStorage,
        "Modality": "SR",
        "PixelData": None,
    }
    written.append(dicom(folder / "report.dcm", SeriesInstanceUID=f"{series}.3", **report))
    odd = dicom(folder / "odd.dcm", SeriesInstanceUID=f"{series}.4")
    content = odd.read_bytes()
    assert b"0.8\\0.5 " in content
    odd.write_bytes(content.replace(b"0.8\\0.5 ", b"Canary-8"))
    return [*written, odd]


def dicom(path: Path, pixels: np.ndarray | None = None, **elements: Any) -> Path:
    """Write an image with marks in its elements, a private one and a nested one included."""
    shape: dict[str, Any] = {"Rows": SIDE, "Columns": SIDE}
    _write_dicom(path, bright() if pixels is None else pixels, **(shape | IDENTITY | elements))
    changed = dcmread(path)
    changed.private_block(0x0011, "CANARY-CREATOR", create=True).add_new(1, "LO", PRIVATE)
    request = Dataset()
    request.RequestedProcedureDescription = NESTED
    request.AccessionNumber = IDENTITY["AccessionNumber"]
    changed.RequestAttributesSequence = [request]
    changed.save_as(path)
    return path


def write_marked_volumes(folder: Path) -> Path:
    """NIfTI, Analyze, FreeSurfer, NRRD and MetaImage, with marks in their free text."""
    folder.mkdir()
    voxels, affine = np.stack([bright()] * 2, axis=-1), np.diag([0.7, 0.9, 2.0, 1.0])
    image = Nifti1Image(voxels, affine)
    image.header["descrip"] = b"Canary-descrip"
    image.header["aux_file"] = b"Canary-aux"
    image.header["intent_name"] = b"Canary-intent"
    image.header["db_name"] = b"Canary-db"
    image.header.extensions.append(Nifti1Extension("comment", b"Canary-extension"))
    for name in ("a.nii", "b.nii.gz"):
        nibabel.save(image, folder / name)
    analyze = AnalyzeImage(voxels, affine)
    for field in ("descrip", "aux_file", "patient_id", "generated", "scannum", "exp_date"):
        analyze.header[field] = b"Canary-%b" % field[:3].encode()
    nibabel.save(analyze, folder / "c.img")
    MGHImage(voxels, affine).to_filename(folder / "d.mgh")
    with (folder / "d.mgh").open("ab") as file:
        file.write(b"Canary-footer")
    header = {"space": "left-posterior-superior", "space directions": affine[:3, :3]}
    more = {"space origin": [0.0, 0.0, 0.0], "content": "Canary-content", "name": "Canary-key"}
    nrrd.write(str(folder / "e.nrrd"), voxels, header | more)
    lines = (
        *("ObjectType = Image", "NDims = 3", "Comment = Canary-comment", "Name = Canary-title"),
        *("BinaryData = True", "BinaryDataByteOrderMSB = False", "PatientName = Canary-meta"),
        *("ElementSpacing = 0.7 0.9 2", f"DimSize = {SIDE} {SIDE} 2"),
        *("ElementType = MET_SHORT", "ElementDataFile = LOCAL\n"),
    )
    (folder / "f.mha").write_bytes("\n".join(lines).encode() + voxels.tobytes(order="F"))
    return folder


def write_marked_pictures(folder: Path) -> Path:
    """Pictures with marks in their comments, EXIF and descriptions."""
    folder.mkdir()
    picture = Image.fromarray(bright(np.uint8))
    exif = Image.Exif()
    for tag, name in {270: "description", 315: "artist", 316: "host", 33432: "owner"}.items():
        exif[tag] = f"Canary-{name}"
    exif[306] = "1999:08:07 11:22:33"
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "Canary-text")
    text.add_text("Packed", "Canary-packed-text", zip=True)
    text.add_itxt("Wide", "Canary-wide-text", zip=True)
    picture.save(folder / "a.png", pnginfo=text, exif=exif)
    picture.save(folder / "b.jpg", exif=exif, comment=b"Canary-jpeg")
    picture.save(folder / "c.gif", comment=b"Canary-gif")
    picture.save(folder / "d.webp", exif=exif, xmp=b"<x>Canary-xmp</x>", lossless=True)
    picture.save(folder / "e.tif", exif=exif, description="Canary-tiff", software="Canary-soft")
    imagej = "ImageJ=1.53t\nunit=mm\nInfo=Canary-imagej"
    Image.fromarray(bright(np.uint16)).save(folder / "f.tif", description=imagej)
    rows = " ".join(map(str, bright(np.uint8).ravel()))
    (folder / "g.pgm").write_text(f"P2\n# Canary-pgm\n{SIDE} {SIDE} 255\n{rows}\n")
    return folder


def write_damaged(folder: Path, sound: Path) -> Path:
    """Copies of the scans below `sound`, cut off and overwritten at several places."""
    paths = sorted(path for path in sound.rglob("*") if path.is_file())
    for (number, path), tenths in product(enumerate(paths), range(1, 10, 2)):
        content = path.read_bytes()
        at = max(len(content) * tenths // 10, 140)
        # The header is what messages could quote.
        place, by = min(at, 40 * tenths), b"Canary-overwritten"
        overwritten = content[:place] + by + content[place + len(by) :]
        for kind, damaged in {"cut": content[:at], "overwritten": overwritten}.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / kind / f"{number:02d}{tenths}{path.suffix}").write_bytes(damaged)
    return folder
