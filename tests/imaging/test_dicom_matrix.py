"""Thirteen series that other readers get wrong without a word."""

import math

import numpy as np
from pydicom.uid import BreastTomosynthesisImageStorage

from wsseg.imaging import Failure, ScanRef, find
from wsseg.imaging.dicom import read_dicom

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


def test_two_different_images_at_one_place_never_share_a_volume(series, write_dicom):
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


def test_time_points_that_no_tag_tells_apart_are_split_by_number_and_flagged(series):
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
