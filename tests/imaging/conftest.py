"""Small DICOM files made on the spot."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

WriteDicom = Callable[..., Path]
STUDY, SERIES, SPACE = (generate_uid(entropy_srcs=[name]) for name in ("study", "series", "space"))


@pytest.fixture(scope="session")
def write_dicom() -> WriteDicom:
    """Write a CT slice; keywords set elements, None removes them."""
    return _write_dicom


def _write_dicom(
    path: Path,
    pixels: Any = None,
    *,
    syntax: UID = ExplicitVRLittleEndian,
    **elements: Any,
) -> Path:
    stored = np.zeros((16, 16), np.int16) if pixels is None else np.asarray(pixels)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    bits = stored.dtype.itemsize * 8
    defaults = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(entropy_srcs=[str(path)]),
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES,
        "FrameOfReferenceUID": SPACE,
        "Modality": "CT",
        "PatientName": "Canary^Patient",
        "PatientID": "CANARY-1",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImagePositionPatient": [-10.0, -20.0, 0.0],
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "PixelSpacing": [0.8, 0.5],
        "SliceThickness": 2.0,
        "SamplesPerPixel": 3 if stored.shape[-1] == 3 else 1,
        "PhotometricInterpretation": "RGB" if stored.shape[-1] == 3 else "MONOCHROME2",
        "PlanarConfiguration": 0 if stored.shape[-1] == 3 else None,
        "Rows": 16,
        "Columns": 16,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        "PixelData": stored.tobytes(),
    }
    for keyword, value in (defaults | elements).items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "1.2.3")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW" if bits > 8 and not UID(syntax).is_compressed else "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def series(tmp_path: Path, write_dicom: WriteDicom) -> Callable[..., Path]:
    """Writes a series of axial slices whose value is their number, under shuffled names."""

    def write(
        heights: Sequence[float] | None = None,
        *,
        every: Callable[[int], dict[str, Any]] | None = None,
        **elements: Any,
    ) -> Path:
        heights = [2.0 * k for k in range(12)] if heights is None else heights
        for number, height in enumerate(heights):
            shuffled = (number * 7) % len(heights) if len(heights) % 7 else number
            position = [-10.0, -20.0, float(height)]
            own: dict[str, Any] = {"ImagePositionPatient": position, "InstanceNumber": number + 1}
            own |= elements | (every(number) if every else {})
            pixels = own.pop("pixels", np.full((16, 16), 100 + number, np.int16))
            write_dicom(tmp_path / f"{shuffled:03d}-{number}", pixels, **own)
        return tmp_path

    return write
