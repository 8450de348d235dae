"""Slices as a DICOM MR series, as a scanner would send them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid


def write_series(
    pixels: NDArray[np.uint8],
    affine: NDArray[np.float64],
    folder: Path,
    *,
    key: str = "wsseg demo",
) -> None:
    """Write one file a slice. pixels (slice, row, column); affine as in `Geometry`, LPS mm.

    All UIDs follow from `key`: another key makes another study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame_of_reference = (
        generate_uid(entropy_srcs=[key, name]) for name in ("study", "series", "frame")
    )
    shared = Dataset()
    shared.SOPClassUID = MRImageStorage
    shared.Modality = "MR"
    shared.StudyInstanceUID = study
    shared.SeriesInstanceUID = series
    shared.FrameOfReferenceUID = frame_of_reference
    shared.PatientName = "Template^MNI152"
    shared.PatientID = "MNI152"
    for tag in ("PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"):
        setattr(shared, tag, "")
    for number, plane in enumerate(pixels, start=1):
        dataset = _slice(shared, plane, affine, number)
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[key, f"slice {number}"])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)


def _slice(
    shared: Dataset, plane: NDArray[np.uint8], affine: NDArray[np.float64], number: int
) -> Dataset:
    dataset = Dataset()
    dataset.update(shared)
    dataset.InstanceNumber = number
    column, row = affine[:3, 0], affine[:3, 1]
    spacing = [float(np.linalg.norm(row)), float(np.linalg.norm(column))]
    dataset.PixelSpacing = spacing
    dataset.SliceThickness = float(np.linalg.norm(affine[:3, 2]))
    dataset.ImageOrientationPatient = [*(column / spacing[1]), *(row / spacing[0])]
    dataset.ImagePositionPatient = list(affine[:3, 3] + (number - 1) * affine[:3, 2])
    dataset.Rows, dataset.Columns = plane.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = plane.astype("<u2").tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    return dataset
