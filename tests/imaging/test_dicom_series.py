from typing import Any

import numpy as np
import pytest

from wsseg.imaging import Failure, ReadError, ScanRef, find
from wsseg.imaging.dicom import read_dicom
from wsseg.imaging.orientation import as_stored

SLICES = 12
STEP_MM = 2.0


def scans_in(folder):
    found = list(find([folder], scratch=folder / ".scratch"))
    refs = [ref for ref in found if isinstance(ref, ScanRef)]
    return [read_dicom(ref) for ref in refs], [f for f in found if isinstance(f, Failure)]


def only_scan(folder):
    scans, failures = scans_in(folder)
    assert failures == []
    assert len(scans) == 1
    return scans[0]


def values(scan):
    return scan.pixels[:, 0, 0].tolist()


def counting(count=SLICES):
    return [100.0 + k for k in range(count)]


def test_without_position_and_number_the_names_decide_and_a_flag_says_so(series):
    missing = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber"))
    assert only_scan(series(every=lambda _: missing)).flags == ("NO_POSITION", "ORDER_BY_NAME")


def test_the_affine_maps_column_row_slice_to_lps_millimetres(series):
    affine = only_scan(series()).geometry.affine
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], [-10, -20, 0, 1])
    # PixelSpacing is 0.8 between rows, 0.5 between columns.
    np.testing.assert_allclose(affine @ [3, 2, 5, 1], [-10 + 1.5, -20 + 1.6, 10, 1])


@pytest.mark.parametrize(
    "orientation",
    [
        [1, 0, 0, 0, 0, -1],  # coronal
        [0, 1, 0, 0, 0, -1],  # sagittal
        [-1, 0, 0, 0, -1, 0],  # axial, upside down
        [0.8, 0.6, 0, -0.6, 0.8, 0],  # turned in its plane
        [0.6, 0.64, 0.48, -0.8, 0.48, 0.36],  # oblique
    ],
)
def test_slices_of_any_orientation_ascend_along_their_normal_as_stored(series, orientation):
    normal = np.cross(orientation[:3], orientation[3:])

    def own(k):
        return {
            "ImagePositionPatient": [float(x) for x in np.round(normal * 3.0 * k, 6)],
            "ImageOrientationPatient": orientation,
        }

    scan = only_scan(series(every=own))
    assert values(scan) == counting()
    geometry: Any = as_stored(scan.geometry, scan.reorientation, (16, 16))
    np.testing.assert_allclose(np.diff(geometry.positions_mm), 3.0, atol=1e-5)
    corner = geometry.affine @ [1, 1, 1, 1]
    expected = 0.5 * np.array(orientation[:3]) + 0.8 * np.array(orientation[3:]) + 3 * normal
    np.testing.assert_allclose(corner[:3], expected, atol=1e-5)


def test_one_broken_file_costs_the_series_one_slice(series):
    folder = series()
    broken = next(folder.glob("*-5"))
    broken.write_bytes(broken.read_bytes()[:-100])
    (scan,), failures = scans_in(folder)
    assert failures == []
    assert values(scan) == [100 + k for k in range(SLICES) if k != 5]
    assert scan.flags == ("GAP",)
    assert [(f.source, f.reason) for f in scan.failures] == [(broken.name, "truncated")]
    assert len(scan.slices) == len(scan.geometry.positions_mm) == SLICES - 1


def test_a_series_of_broken_files_is_a_read_error(series):
    folder = series([0, 2])
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:-100])
    (ref,) = find([folder], scratch=folder / ".scratch")
    assert isinstance(ref, ScanRef)
    with pytest.raises(ReadError, match="none of 2 files") as caught:
        read_dicom(ref)
    assert caught.value.reason == "truncated"


def test_images_that_wrongly_share_one_uid_are_all_kept(series):
    assert values(only_scan(series(SOPInstanceUID="1.2.3"))) == counting()


def test_the_same_file_in_two_folders_is_read_once(series, tmp_path):
    folder = series()
    copies = tmp_path / "again"
    copies.mkdir()
    for file in [file for file in folder.iterdir() if file.is_file()]:
        (copies / file.name).write_bytes(file.read_bytes())
    (scan,), failures = scans_in(folder)
    assert values(scan) == counting()
    assert [failure.reason for failure in failures] == ["duplicate"] * SLICES


def test_files_of_one_scan_say_where_each_slice_came_from(series):
    scan = only_scan(series())
    assert [found.source for found in scan.slices] == [f.source for f in scan.ref.files]
    assert scan.slices[3].source.endswith("-3")
    assert len({found.instance_uid for found in scan.slices}) == SLICES


def test_two_series_are_two_scans(series, write_dicom):
    folder = series()
    write_dicom(folder / "b", SeriesInstanceUID="1.2.3", ImagePositionPatient=[-10, -20, 2.0])
    scans, _ = scans_in(folder)
    assert sorted(len(scan.slices) for scan in scans) == [1, SLICES]
