"""A mask lies at one place in the patient, whichever way its source is stored and its copy read."""

import itertools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.nifti1 import Nifti1Image
from pydicom import dcmread
from pydicom.uid import generate_uid
from scipy.spatial.transform import Rotation

from tests.imaging.conftest import _write_dicom
from tests.serve.conftest import rows, run, write_model
from tests.serve.test_dicom_seg import program
from wsseg.imaging.discovery import find
from wsseg.imaging.reading import read
from wsseg.imaging.scan import ScanRef

pytestmark = pytest.mark.slow

ROW_MM, COLUMN_MM, SLICE_MM = 0.8, 0.5, 2.5
SLICES, ROWS, COLUMNS = 4, 9, 14
FIRST = np.array([-31.25, 17.5, 102.75])
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
LEVELS = {1: 128, 2: 200}  # grey value where a class of the threshold model begins
RADIUS_MM = 44.0  # 55 and 88 pixels
AXIAL = np.eye(3)[:2]
NEAREST_MM = 1e-3


@dataclass(frozen=True)
class Case:
    """Directions (2, 3) in LPS along a row and along a column, and the order of the files."""

    name: str
    directions: np.ndarray
    falling: bool = False

    @property
    def series(self) -> str:
        return generate_uid(entropy_srcs=["geometry", self.name])


def axis_aligned() -> Iterator[Case]:
    """The 24 ways to place the rows and columns of a plane, with files in both orders."""
    axes = {"+" + name: axis for name, axis in zip("LPS", np.eye(3), strict=True)}
    axes |= {"-" + name[1]: -axis for name, axis in axes.items()}
    for first, second in itertools.permutations(axes, 2):
        if first[1] != second[1]:
            for falling in (False, True):
                order = "falling" if falling else "rising"
                directions = np.stack([axes[first], axes[second]])
                yield Case(f"{first}{second} {order}", directions, falling)


def oblique() -> Iterator[Case]:
    """Planes near each plane of the body, and one at 45 degrees between two of them."""
    turns = {
        "axial": (AXIAL, (12, -7, 5)),
        "coronal": (np.array([[1.0, 0, 0], [0, 0, -1]]), (-9, 14, 21)),
        "sagittal": (np.array([[0, 1.0, 0], [0, 0, -1]]), (17, 8, -25)),
        "mirrored": (np.array([[0, -1.0, 0], [-1.0, 0, 0]]), (31, -22, 40)),
        "45 degrees": (AXIAL, (45, 0, 0)),
    }
    for number, (name, (plane, degrees)) in enumerate(turns.items()):
        turned = Rotation.from_euler("xyz", degrees, degrees=True).apply(plane)
        yield Case(f"oblique {name}", turned, falling=bool(number % 2))


OBLIQUE = tuple(oblique())
CASES = (*axis_aligned(), *OBLIQUE)
DISCS = tuple(Case(f"disc {case.name}", case.directions) for case in (CASES[0], OBLIQUE[2]))
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_class = pytest.mark.parametrize("label", LEVELS)


def region(number: int) -> np.ndarray:
    """A part of a slice without symmetry, of another shape on each slice and empty on the last."""
    pixels = np.zeros((ROWS, COLUMNS), np.int16)
    if number < SLICES - 1:
        pixels[1 : 4 + number, 2:5] = 150
        pixels[1:3, 5 : 10 + number] = 150
        pixels[2, 3 : 6 + number] = 250
    return pixels


def disc() -> np.ndarray:
    """Pixels whose centres lie in a circle of RADIUS_MM about a point between pixels."""
    row, column = np.ogrid[:130, :200]
    distance = np.hypot((row - 63.7) * ROW_MM, (column - 98.4) * COLUMN_MM)
    return np.where(distance <= RADIUS_MM, 150, 0).astype(np.int16)


def write_case(folder: Path, case: Case, planes: list[np.ndarray]) -> None:
    """Write one file a slice, along the normal of the plane or, where falling, against it."""
    order = range(len(planes))[:: -1 if case.falling else 1]
    normal = np.cross(*case.directions)
    for number, index in enumerate(order):
        position = FIRST + index * SLICE_MM * normal
        _write_dicom(
            folder / case.series / f"{number}.dcm",
            planes[index],
            Rows=planes[index].shape[0],
            Columns=planes[index].shape[1],
            InstanceNumber=number + 1,
            SeriesInstanceUID=case.series,
            StudyInstanceUID=generate_uid(entropy_srcs=["geometry study", case.name]),
            FrameOfReferenceUID=generate_uid(entropy_srcs=["geometry space", case.name]),
            PixelSpacing=[ROW_MM, COLUMN_MM],
            SliceThickness=SLICE_MM,
            ImageOrientationPatient=case.directions.ravel().round(12).tolist(),
            ImagePositionPatient=position.round(9).tolist(),
        )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all series in scans, measured in one run."""
    folder = tmp_path_factory.mktemp("geometry")
    for case in CASES:
        write_case(folder / "scans", case, [region(number) for number in range(SLICES)])
    for case in DISCS:
        write_case(folder / "scans", case, [disc()])
    run(
        write_model(folder / "model"),
        folder / "ratios.csv",
        folder / "scans",
        masks=folder / "masks",
        seg=folder / "seg",
    )
    return folder


@pytest.fixture(scope="module")
def scans(measured: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ScanRef]:
    """What is found in the folder, by series UID."""
    found = find([measured / "scans"], scratch=tmp_path_factory.mktemp("scratch"))
    refs = [ref for ref in found if isinstance(ref, ScanRef)]
    return {ref.files[0].path.parent.name: ref for ref in refs}


def image_plane(position, orientation, spacing) -> np.ndarray:
    """The affine (4, 4) from (column, row, 0, 1) to LPS mm (PS3.3, C.7.6.2.1.1)."""
    affine = np.eye(4)
    along_row, along_column = np.reshape(orientation, (2, 3)).astype(float)
    affine[:3, 0] = along_row * float(spacing[1])
    affine[:3, 1] = along_column * float(spacing[0])
    affine[:3, 3] = np.array(position, float)
    return affine


def places(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """LPS mm (n, 3) of the pixels of a plane (row, column)."""
    row, column = np.nonzero(mask)
    points: np.ndarray = apply_affine(affine, np.stack([column, row, 0 * row], axis=1))
    return points


def stated(measured: Path, case: Case, label: int) -> np.ndarray:
    """Where the files themselves place the pixels of a class."""
    points = []
    for path in (measured / "scans" / case.series).iterdir():
        slice_ = dcmread(path)
        plane = image_plane(
            slice_.ImagePositionPatient, slice_.ImageOrientationPatient, slice_.PixelSpacing
        )
        points.append(places(slice_.pixel_array >= LEVELS[label], plane))
    return np.concatenate(points)


def by_label_map(path: Path, label: int) -> np.ndarray:
    """Where nibabel places the voxels of a class; class 2 lies within class 1."""
    image = Nifti1Image.from_filename(path)
    where = np.argwhere(np.asarray(image.dataobj) >= label)
    points: np.ndarray = apply_affine(TO_LPS @ image.affine, where)
    return points


def by_segmentation(path: Path, label: int) -> np.ndarray:
    """Where the frames of a DICOM SEG place the pixels of a segment."""
    found = dcmread(path)
    (shared,) = found.SharedFunctionalGroupsSequence
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    points = []
    pixels = found.pixel_array.reshape(-1, found.Rows, found.Columns)
    for frame, group in zip(pixels, found.PerFrameFunctionalGroupsSequence, strict=True):
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == label:
            position = group.PlanePositionSequence[0].ImagePositionPatient
            points.append(places(frame, image_plane(position, orientation, spacing)))
    return np.concatenate(points)


def of_series(folder: Path, case: Case) -> Path:
    (path,) = folder.glob(f"{case.series}*")
    return path


def assert_same_place(found: np.ndarray, expected: np.ndarray) -> None:
    assert len(found) == len(expected) > 0
    assert np.linalg.norm(found.mean(0) - expected.mean(0)) <= NEAREST_MM


@every_class
@every_case
def test_the_scan_in_display_order_has_a_mask_at_its_place(measured, scans, case, label):
    scan = read(scans[case.series])
    index, row, column = np.nonzero(np.asarray(scan.pixels) >= LEVELS[label])
    found = apply_affine(scan.geometry.affine, np.stack([column, row, index], axis=1))
    assert_same_place(found, stated(measured, case, label))


@every_class
@every_case
def test_the_label_map_has_a_mask_at_its_place(measured, case, label):
    found = by_label_map(of_series(measured / "masks", case), label)
    assert_same_place(found, stated(measured, case, label))


@every_class
@every_case
def test_the_segmentation_has_a_mask_at_its_place(measured, case, label):
    found = by_segmentation(of_series(measured / "seg", case), label)
    assert_same_place(found, stated(measured, case, label))


@every_case
def test_dcmqi_places_a_segmentation_where_its_source_is(measured, tmp_path, case):
    arguments = ["--inputDICOM", of_series(measured / "seg", case), "--outputDirectory", tmp_path]
    subprocess.run(
        [program("segimage2itkimage"), *map(str, arguments), "--outputType", "nii"],
        check=True,
        capture_output=True,
    )
    for label in LEVELS:
        (path,) = tmp_path.glob(f"{label}.nii*")
        image = Nifti1Image.from_filename(path)
        found = apply_affine(TO_LPS @ image.affine, np.argwhere(np.asarray(image.dataobj) > 0))
        assert_same_place(found, stated(measured, case, label))


@pytest.mark.parametrize("case", DISCS, ids=lambda case: case.name)
def test_a_disc_has_the_area_of_its_circle(measured, case):
    (row,) = (
        row
        for row in rows(measured / "ratios.csv")
        if row["series_uid"] == case.series and row["ratio_name"] == "bright"
    )
    image = Nifti1Image.from_filename(of_series(measured / "masks", case))
    voxel = np.linalg.norm(np.cross(image.affine[:3, 0], image.affine[:3, 1]))
    segmentation = dcmread(of_series(measured / "seg", case))
    (shared,) = segmentation.SharedFunctionalGroupsSequence
    pixel = np.prod([float(mm) for mm in shared.PixelMeasuresSequence[0].PixelSpacing])
    areas = {
        "report": float(row["numerator_mm2"]),
        "label map": np.count_nonzero(image.dataobj) * voxel,
        "segmentation": segmentation.pixel_array[0].sum() * pixel,
    }
    assert areas == pytest.approx(dict.fromkeys(areas, np.pi * RADIUS_MM**2), rel=0.005)
