"""The demo's data: a brain MRI template that nilearn ships, with its tissue maps, also as DICOM.

The MNI152 2009a template (Fonov et al., NeuroImage 2011) is an average of 152 young adults at
1 mm: one volume, so the demo shows that the whole way works, not how a network generalises.
"""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from wsseg.imaging.scan import FileRef, Scan
from wsseg.imaging.volumes import read_volume, volume_refs

ROWS, COLUMNS = slice(20, 212), slice(18, 178)
CLASSES = ("white_matter", "grey_matter")
BRAIN = range(28, 148)  # axial slices that hold a useful amount of both tissues
HELD_OUT = range(84, 104)
VALIDATION_STEP = 9  # every ninth training slice chooses the epoch instead
GAP = 4  # slices left out around the held-out block: neighbours look alike


@dataclass(frozen=True)
class DemoData:
    """scan: the template, slices axial, in display order. labels: 0, 1 white, 2 grey matter."""

    scan: Scan
    labels: NDArray[np.uint8]


def load(folder: Path) -> DemoData:
    """Bring template and tissue maps through wsseg's own reader, so that all share one grid."""
    from nilearn import datasets

    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "t1": datasets.load_mni152_template(resolution=1),
        "white": datasets.load_mni152_wm_template(resolution=1),
        "grey": datasets.load_mni152_gm_template(resolution=1),
    }
    scans = {}
    for name, image in parts.items():
        path = folder / f"{name}.nii.gz"
        nib.save(image, path)
        scans[name] = read_volume(volume_refs(FileRef(path, path.name))[0])
    white, grey = (np.asarray(scans[name].pixels) for name in ("white", "grey"))
    labels = np.zeros(white.shape, np.uint8)
    labels[(white >= 0.5) & (white >= grey)] = 1
    labels[(grey >= 0.5) & (grey > white)] = 2
    return DemoData(_cropped(scans["t1"]), labels[:, ROWS, COLUMNS])


def _cropped(scan: Scan) -> Scan:
    """The scan without most of the air around the head, its geometry moved along."""
    affine = None if scan.geometry.affine is None else scan.geometry.affine.copy()
    if affine is not None:
        affine[:3, 3] += affine[:3, :2] @ (COLUMNS.start, ROWS.start)
    geometry = replace(scan.geometry, affine=affine)
    return replace(scan, pixels=np.asarray(scan.pixels)[:, ROWS, COLUMNS], geometry=geometry)


def training_slices() -> list[int]:
    """Axial slices to train and validate on: none within GAP of the held-out block."""
    near = range(HELD_OUT.start - GAP, HELD_OUT.stop + GAP)
    return [index for index in BRAIN if index not in near]


def write_cases(data: DemoData, folder: Path) -> Path:
    """Write the training slices as PNG pictures with a table of their ratios and masks."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    table = folder / "outlined.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mask", *(f"ratio:{name}" for name in CLASSES), "split"])
        for place, index in enumerate(training_slices()):
            name = f"slice{index:03d}.png"
            Image.fromarray(as_bytes(data.scan.pixels[index])).save(folder / "images" / name)
            Image.fromarray(data.labels[index]).save(folder / "masks" / name)
            ratios = [float((data.labels[index] == k).mean()) for k in (1, 2)]
            split = "val" if place % VALIDATION_STEP == 4 else "train"
            writer.writerow([f"images/{name}", f"masks/{name}", *ratios, split])
    return table


def as_bytes(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The template's 0..1 intensities as 8-bit grey."""
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)


def write_scans(data: DemoData, folder: Path) -> None:
    """Write the held-out slices twice: as one NIfTI file and as a DICOM series."""
    folder.mkdir(parents=True, exist_ok=True)
    block = slice(HELD_OUT.start, HELD_OUT.stop)
    pixels = as_bytes(np.asarray(data.scan.pixels)[block])
    affine = data.scan.geometry.affine
    if affine is None:
        raise AssertionError("the template has patient coordinates")
    start = affine.copy()
    start[:3, 3] += HELD_OUT.start * affine[:3, 2]
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    image = nib.Nifti1Image(pixels.transpose(2, 1, 0), to_ras @ start)
    image.set_sform(to_ras @ start, code=4)  # MNI space
    image.set_qform(to_ras @ start, code=4)
    nib.save(image, folder / "held-out.nii.gz")
    write_series(pixels, start, folder / "dicom")


def write_series(
    pixels: NDArray[np.uint8],
    affine: NDArray[np.float64],
    folder: Path,
    *,
    key: str = "wsseg demo",
) -> None:
    """Write slices as a DICOM MR series, as a scanner would: one file a slice.

    pixels (slice, row, column); affine as in `Geometry`, LPS mm. All UIDs follow from `key`:
    another key makes another study.
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
