"""What fuzzing begins with: files that pydicom and nibabel ship, and small ones of our own."""

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pydicom
import tifffile
from openpyxl import Workbook
from PIL import Image

from bench.reliability.fuzz.targets import NAMES
from tests.serve.conftest import make_manifest
from wsseg.serve.manifest import Manifest

MOST_BYTES = 1 << 15
"""Larger files are no seeds: mutations of them seldom meet a header."""
PAIR = b"\n--voxels--\n"
"""Divides the two files of a pair in one input."""
DATA = "WSSEG_DATA"
"""Environment variable: a folder whose files are seeds too."""
_SIDE = 12


def write_seeds(target: str, folder: Path) -> int:
    """Write the seeds of a target as files of a folder; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = list(_SEEDS[target]())
    for index, content in enumerate(seeds):
        (folder / f"seed-{index:03d}").write_bytes(content)
    return len(seeds)


def _files() -> Iterator[bytes]:
    for path in _shipped():
        if path.stat().st_size <= MOST_BYTES:
            yield _chosen(path.name) + path.read_bytes()
    for name, content in _own_files():
        yield _chosen(name) + content


def _chosen(name: str) -> bytes:
    """The byte that chooses the name most like this one."""
    suffix = Path(name).suffix or "IM0001"
    alike = (index for index, known in enumerate(NAMES) if known.endswith(name[-7:]))
    also = (index for index, known in enumerate(NAMES) if known.endswith(suffix))
    return bytes([next(alike, next(also, 0))])


def _shipped() -> Iterator[Path]:
    """Files of packages, in the order of their names, and those that `DATA` names."""
    folders = [Path(package.__file__).parent for package in (pydicom, nibabel) if package.__file__]
    if os.environ.get(DATA):
        folders.append(Path(os.environ[DATA]))
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix not in (".py", ".pyc", ".pyi", ".md", ".txt"):
                yield path


def _own_files() -> Iterator[tuple[str, bytes]]:
    """A picture, volume or archive of each format."""
    pixels = np.arange(_SIDE * _SIDE, dtype=np.uint8).reshape(_SIDE, _SIDE)
    pictures = {}
    for name in ("a.png", "a.jpg", "a.tif", "a.bmp", "a.gif", "a.webp"):
        stream = io.BytesIO()
        form = {"jpg": "JPEG", "tif": "TIFF"}.get(name[2:], name[2:].upper())
        Image.fromarray(pixels).save(stream, form)
        pictures[name] = stream.getvalue()
    yield from pictures.items()
    for options in ({}, {"bigtiff": True}, {"compression": "zlib"}, {"imagej": True}):
        stream = io.BytesIO()
        pages = np.stack([pixels.astype(np.uint16)] * 3)
        tifffile.imwrite(stream, pages, **options)
        yield "a.tif", stream.getvalue()
    stack = np.stack([pixels.astype(np.int16)] * 2, axis=-1)
    image = nibabel.Nifti1Image(stack, np.diag([0.5, 0.8, 2.0, 1.0]))
    yield "a.nii", image.to_bytes()
    yield "a.nii.gz", gzip.compress(image.to_bytes())
    yield "a.nii", nibabel.Nifti2Image(stack, np.eye(4)).to_bytes()
    yield "a.mgh", nibabel.MGHImage(stack, np.eye(4)).to_bytes()
    yield "a.hdr", image.to_bytes()[:348] + PAIR + stack.tobytes(order="F")
    nrrd_stream = io.BytesIO()
    nrrd.write(nrrd_stream, stack, {"space": "left-posterior-superior", "encoding": "raw"})
    yield "a.nrrd", nrrd_stream.getvalue()
    meta = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nElementSpacing = 0.7 0.9 2\n"
        f"DimSize = {_SIDE} {_SIDE} 2\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    yield "a.mha", meta.encode() + stack.tobytes(order="F")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in pictures.items():
            archive.writestr(name, content)
    yield "a.zip", packed.getvalue()
    for mode in ("w", "w:gz"):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode=mode) as tar:
            for name, content in pictures.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        yield ("a.tar" if mode == "w" else "a.tgz"), packed.getvalue()


_GROUPS = (
    b"SOPClassUID=1.2.840.10008.5.1.4.1.1.2.1\nNumberOfFrames=2\nPixelData=12345678\n"
    b"SharedFunctionalGroupsSequence>PixelMeasuresSequence>PixelSpacing=1\\1\n"
    b"PerFrameFunctionalGroupsSequence>PlanePositionSequence>ImagePositionPatient=0\\0\\0\n"
    b"PerFrameFunctionalGroupsSequence>FrameContentSequence>StackID=1\n"
    b"PerFrameFunctionalGroupsSequence>FrameContentSequence>DimensionIndexValues=1\\1\n"
    b"PerFrameFunctionalGroupsSequence.1>PlanePositionSequence>ImagePositionPatient=0\\0\\2\n"
    b"PerFrameFunctionalGroupsSequence.1>MRDiffusionSequence>DiffusionDirectionality=NONE\n"
)
_DATASETS = (
    b"\n\n\n",
    b"InstanceNumber=1\n\nInstanceNumber=2\n\nInstanceNumber=2\n",
    b"ImagePositionPatient=0\\0\\0\n\nImagePositionPatient=0\\0\\2\n\nImagePositionPatient=0\\0\\9\n",
    b"ImagePositionPatient=\nInstanceNumber=5\n\nImagePositionPatient=\nInstanceNumber=3\n",
    b"ImageType=ORIGINAL\\PRIMARY\\LOCALIZER\nImageOrientationPatient=0\\1\\0\\0\\0\\-1\n\n\n",
    b"Modality=MR\nSOPClassUID=1.2.840.10008.5.1.4.1.1.4\nEchoTime=1\n\nModality=MR\nEchoTime=2\n",
    b"Modality=PT\nSOPClassUID=1.2.840.10008.5.1.4.1.1.128\nUnits=BQML\nRescaleSlope=2\n"
    b"CorrectedImage=ATTN\\DECY\nDecayCorrection=START\nPatientWeight=70\nSeriesTime=101010\n"
    b"RadiopharmaceuticalInformationSequence>RadionuclideTotalDose=3e8\n"
    b"RadiopharmaceuticalInformationSequence>RadionuclideHalfLife=6586\n"
    b"RadiopharmaceuticalInformationSequence>RadiopharmaceuticalStartTime=090000\n",
    _GROUPS,
    _GROUPS + b"ConcatenationUID=1.5\nInConcatenationNumber=1\nInConcatenationTotalNumber=2\n\n"
    b"NumberOfFrames=1\nConcatenationUID=1.5\nInConcatenationNumber=2\n"
    b"ConcatenationFrameOffsetNumber=2\n",
    b"SOPClassUID=1.2.840.10008.5.1.4.1.1.20\nModality=NM\nNumberOfFrames=2\nPixelData=12345678\n"
    b"FrameIncrementPointer=\nDetectorVector=1\\2\nTimeSlotVector=1\\1\nSliceVector=1\\2\n",
    b"SOPClassUID=1.2.840.10008.5.1.4.1.1.7\nSamplesPerPixel=3\nPhotometricInterpretation=RGB\n"
    b"PlanarConfiguration=1\nPixelData=123456789012\n\nPhotometricInterpretation=PALETTE COLOR\n"
    b"RedPaletteColorLookupTableDescriptor=4\\0\\8\nRedPaletteColorLookupTableData=1234\n",
    b"BitsAllocated=16\nBitsStored=12\nHighBit=11\nPixelRepresentation=1\nPixelData=12345678\n"
    b"RescaleIntercept=-1024\nRescaleSlope=1\nRescaleType=HU\nSliceThickness=2\nGantryDetectorTilt"
    b"=5\nSpacingBetweenSlices=1\nPixelPaddingValue=0\n",
    b"Modality=US\nSOPClassUID=1.2.840.10008.5.1.4.1.1.6.1\nNumberOfFrames=2\nPixelData=12345678\n"
    b"SequenceOfUltrasoundRegions>PhysicalDeltaX=0.1\n"
    b"SequenceOfUltrasoundRegions>PhysicalDeltaY=0.1\n"
    b"SequenceOfUltrasoundRegions>PhysicalUnitsXDirection=3\n",
    b"Modality=MR\nImageType=ORIGINAL\\PRIMARY\\M\\MOSAIC\nRows=4\nColumns=4\n"
    b"PixelData=1234567890123456\n",
    b"ModalityLUTSequence>LUTDescriptor=4\\0\\16\nModalityLUTSequence>LUTData=12345678\n"
    b"VOILUTFunction=LINEAR\nWindowCenter=40\nWindowWidth=400\n",
    b"SpecificCharacterSet=ISO_IR 192\nNumberOfFrames=3\nFrameTime=10\nImagerPixelSpacing=1\\2\n",
)

_TABLES = (
    b"image,ratio\na.png,0.1\nb.png,0.2\nc.png,12%\n",
    b"image,mask,split,group\na.png,m.png,train,1\nb.png,m.png,val,2\nc.png,m.png,test,3\n",
    b"image,points,box,extremes\na.png,3 4; 5 6,1 1 8 8,1 2; 3 4; 5 6; 7 8\nb.png,2 2,0 0 5 5,\n",
    b"image;ratio:roi;marks\na.png;0,25;m.png\nb.png;0,5;m.png\n",
    b"\xef\xbb\xbfimage\tratio_percent:left\tratio_percent:right\na.png\t10\t20\nb.png\t1\t2\n",
    b"image,slice,volume,ratio,present\nv.nii,0,0,0.2,roi\nv.nii,1,0,0.3,\n",
    'image,ratio,x_note\n"a.png","0.1","über, ""x"""\n'.encode("utf-16"),
    b"image,centroid,spread,ratio\na.png,3 4,2 2,0.1\nb.png,4 4,1 1,0.2\n",
    b"image,points:left,points:right,background\na.png,1 2,3 4,0 0\nb.png,,3 4,0 1\n",
)
_KNOWN = (
    b"source,ratio,ratio_name\na.png,0.1,bright\nb.png,0.2,bright\n",
    b"source,slice,frame,ratio:bright\na.nii,0,,0.5\na.nii,1,,0.4\nb.dcm,0,1,0.25\n",
    b"source;ratio_percent:bright;x_note\na.png;12,5;=1\n",
)


def _workbook(text: bytes) -> bytes:
    book = Workbook()
    for line in text.decode("latin-1").splitlines():
        book.active.append(line.split(","))
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def _models() -> Iterator[bytes]:
    plain = json.loads(manifest().model_dump_json())
    yield json.dumps(plain).encode()
    yield json.dumps(plain, indent=1).encode("utf-16")
    yield b'{"schema_version": 1, "engines": [' + b"[" * 50 + b"]" * 50 + b"]}"


def manifest() -> Manifest:
    """The manifest of a model that thresholds grey values."""
    return make_manifest()


def write_case_files(folder: Path) -> Path:
    """The files that the tables of the seeds name; returns the folder."""
    pixels = np.arange(_SIDE * _SIDE, dtype=np.uint8).reshape(_SIDE, _SIDE)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(pixels).save(folder / name)
    Image.fromarray((pixels > 100).astype(np.uint8)).save(folder / "m.png")
    volume = nibabel.Nifti1Image(np.stack([pixels] * 2, axis=-1), np.eye(4))
    nibabel.save(volume, folder / "v.nii")
    return folder


def _peers() -> Iterator[bytes]:
    from bench.reliability.fuzz.peer import Peer, node_seeds

    return node_seeds(Peer())


_SEEDS = {
    "finding": _files,
    "decoding": _files,
    "grouping": lambda: iter(_DATASETS),
    "cases": lambda: iter((*_TABLES, *map(_workbook, _TABLES[:2]))),
    "known": lambda: iter((*_KNOWN, *map(_workbook, _KNOWN[:1]))),
    "model": _models,
    "node": _peers,
}
