"""A series of single images is one scan in slice order, or flagged where something is wrong."""

import math
from typing import Any

import numpy as np
import pytest
from pydicom.uid import BreastTomosynthesisImageStorage

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


def test_a_clean_series_is_one_scan_in_slice_order(series):
    scan = only_scan(series())
    assert values(scan) == counting()
    assert scan.flags == ()
    np.testing.assert_allclose(scan.geometry.positions_mm, STEP_MM * np.arange(SLICES))


def test_a_missing_slice_is_flagged_and_the_others_keep_their_positions(series):
    heights = [STEP_MM * k for k in range(SLICES) if k != 5]
    scan = only_scan(series(heights))
    assert scan.flags == ("GAP",)
    np.testing.assert_allclose(scan.geometry.positions_mm, heights)


def test_a_repeated_slice_is_dropped_and_reported(series, write_dicom):
    folder = series()
    write_dicom(
        folder / "copy",
        np.full((16, 16), 103, np.int16),
        ImagePositionPatient=[-10, -20, 6.0],
        InstanceNumber=99,
    )
    (scan,), (failure,) = scans_in(folder)
    assert values(scan) == counting()
    assert scan.flags == ("DUPLICATE",)
    assert (failure.reason, failure.status) == ("duplicate", "skipped")


def test_two_different_images_at_one_position_never_share_a_volume(series, write_dicom):
    folder = series()
    write_dicom(
        folder / "other",
        np.full((16, 16), 999, np.int16),
        ImagePositionPatient=[-10, -20, 6.0],
        InstanceNumber=99,
    )
    (whole, rest), failures = scans_in(folder)
    assert failures == []
    assert values(whole) == counting()
    assert values(rest) == [999]
    assert "REPEATED_POSITIONS" in whole.flags


def test_a_tilted_gantry_is_flagged_and_sheared_not_straightened(series):
    lean = STEP_MM * math.tan(math.radians(15))
    scan = only_scan(
        series(every=lambda k: {"ImagePositionPatient": [-10, -20 + lean * k, STEP_MM * k]})
    )
    assert scan.flags == ("TILT",)
    np.testing.assert_allclose(scan.geometry.affine[:3, 2], [0, lean, STEP_MM], atol=1e-6)
    np.testing.assert_allclose(scan.geometry.positions_mm, STEP_MM * np.arange(SLICES))


def test_reversed_instance_numbers_do_not_change_the_order(series):
    scan = only_scan(series(every=lambda k: {"InstanceNumber": SLICES - k}))
    assert values(scan) == counting()
    assert scan.flags == ()


def test_every_slice_has_its_own_rescale(series):
    def own(k):
        stored = np.full((16, 16), 462 // (1 + k % 2), np.int16)
        return {"pixels": stored, "RescaleSlope": 0.5 * (1 + k % 2)}

    scan = only_scan(series(every=own))
    np.testing.assert_allclose(scan.pixels, 231)


def test_a_localizer_inside_a_series_is_skipped_with_its_reason(series, write_dicom):
    folder = series()
    write_dicom(
        folder / "scout",
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
        InstanceNumber=0,
    )
    (scan,), (failure,) = scans_in(folder)
    assert values(scan) == counting()
    assert (failure.source, failure.reason) == ("scout", "localizer")


def test_an_image_across_the_others_is_a_scan_of_its_own(series, write_dicom):
    folder = series()
    write_dicom(folder / "across", ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    scans, failures = scans_in(folder)
    assert failures == []
    assert sorted(len(scan.slices) for scan in scans) == [1, SLICES]
    assert all("SPLIT" in scan.flags for scan in scans)
    assert {scan.ref.part for scan in scans} == {0, 1}


def test_two_matrix_sizes_are_two_scans(series):
    def own(k):
        return {"pixels": np.zeros((8, 16), np.int16), "Rows": 8} if k >= 6 else {}

    scans, failures = scans_in(series(every=own))
    assert failures == []
    assert sorted(scan.pixels.shape for scan in scans) == [(6, 8, 16), (6, 16, 16)]


def test_uneven_spacing_is_flagged_and_keeps_true_positions(series):
    heights = [0, 2, 4, 6, 9.3, 12, 16.1, 18, 20]
    scan = only_scan(series(heights))
    assert scan.flags == ("NONUNIFORM",)
    np.testing.assert_allclose(scan.geometry.positions_mm, heights)


def test_monochrome1_reads_as_the_same_picture_in_monochrome2_would(series):
    def own(k):
        return {"pixels": np.full((16, 16), 4095 - (100 + k), np.uint16), "BitsStored": 12}

    folder = series(
        every=own,
        PhotometricInterpretation="MONOCHROME1",
        HighBit=11,
        SOPClassUID=BreastTomosynthesisImageStorage,
        Modality="MG",
    )
    scan = only_scan(folder)
    assert values(scan) == counting()
    assert scan.flags == ("MONOCHROME1",)


def test_two_time_points_at_the_same_positions_are_two_scans(series):
    heights = [STEP_MM * (k % 6) for k in range(SLICES)]
    folder = series(heights, every=lambda k: {"TemporalPositionIdentifier": 1 + k // 6})
    (first, second), failures = scans_in(folder)
    assert failures == []
    assert values(first) == [100 + k for k in range(6)]
    assert values(second) == [106 + k for k in range(6)]
    np.testing.assert_allclose(second.geometry.positions_mm, STEP_MM * np.arange(6))


def test_time_points_without_a_distinguishing_tag_are_split_by_number_and_flagged(series):
    scans, _ = scans_in(series([STEP_MM * (k % 6) for k in range(SLICES)]))
    assert [values(scan) for scan in scans] == [
        [100 + k for k in range(6)],
        [106 + k for k in range(6)],
    ]
    assert all("REPEATED_POSITIONS" in scan.flags for scan in scans)


def test_micrometres_of_jitter_are_no_fault(series):
    heights = [STEP_MM * k + 0.004 * (-1) ** k for k in range(SLICES)]
    assert only_scan(series(heights)).flags == ()


def test_slices_without_position_are_ordered_by_number_and_have_no_depth(series):
    scan = only_scan(series(ImagePositionPatient=None, ImageOrientationPatient=None))
    assert values(scan) == counting()
    assert scan.flags == ("NO_POSITION",)
    assert scan.geometry.positions_mm is None
    assert scan.geometry.affine is None
    assert scan.geometry.pixel_mm == (0.8, 0.5)


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
