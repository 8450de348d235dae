"""Files of one series that are slices of several scans, and those that only look so."""

import dataclasses

import numpy as np
import pytest

from wsseg.imaging import Failure, ReadError, ScanRef, find, read, safe_name, write_labels
from wsseg.imaging.dicom import read_dicom

AIR = np.zeros((16, 16), np.int16)


def scans_in(folder):
    found = list(find([folder], scratch=folder / ".scratch"))
    refs = [ref for ref in found if isinstance(ref, ScanRef)]
    return [read_dicom(ref) for ref in refs], [f for f in found if isinstance(f, Failure)]


def values(scan):
    return scan.pixels[:, 0, 0].tolist()


def heights(scan):
    return np.round(scan.geometry.positions_mm, 6).tolist()


def test_a_series_with_a_frame_of_reference_each_is_flagged_as_split(series):
    scans, failures = scans_in(
        series([0, 5, 10], every=lambda k: {"FrameOfReferenceUID": f"1.2.{k + 1}"})
    )
    assert failures == []
    assert [scan.flags for scan in scans] == [("SPLIT",)] * 3


BETWEEN = {
    "acquisition": lambda second: {"AcquisitionNumber": 1 + second},
    "time": lambda second: {"AcquisitionTime": "120000" if second else "115900"},
    "kind of image": lambda second: {"ImageType": ["ORIGINAL", "PRIMARY", "MP"[second]]},
    "echo": lambda second: {"EchoTime": [4.6, 9.2][second]},
    "order of acquisition": lambda second: {},
}


@pytest.mark.parametrize("own", BETWEEN.values(), ids=BETWEEN)
@pytest.mark.parametrize("shift", [2.5, 1.7, 0.02])
def test_two_acquisitions_a_part_of_a_slice_apart_are_two_scans(series, own, shift):
    places = [5.0 * (k % 6) + shift * (k // 6) for k in range(12)]
    folder = series(places, every=lambda k: own(k // 6), SliceThickness=5)
    (first, second), failures = scans_in(folder)
    assert failures == []
    assert (values(first), values(second)) == (
        [100 + k for k in range(6)],
        [106 + k for k in range(6)],
    )
    assert (heights(first), heights(second)) == (places[:6], [round(z, 6) for z in places[6:]])
    for scan in (first, second):
        assert not {"GAP", "NONUNIFORM"} & set(scan.flags)
        assert "SPLIT" in scan.flags


@pytest.mark.parametrize(
    ("tag", "stated"),
    [("ConvolutionKernel", ["B30f", "B70f"]), ("KVP", [80, 140]), ("RepetitionTime", [500, 2500])],
)
def test_reconstructions_and_weightings_are_separated_whatever_their_order(series, tag, stated):
    second = [0, 1, 1, 0, 0, 1, 1, 0]
    scans, failures = scans_in(
        series([5.0 * (k // 2) for k in range(8)], every=lambda k: {tag: stated[second[k]]})
    )
    assert failures == []
    assert [values(scan) for scan in scans] == [[100, 103, 104, 107], [101, 102, 105, 106]]
    assert {scan.flags for scan in scans} == {("SPLIT",)}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([5.0 * k for k in range(12)], [2.5, 7.5, 12.5]),
        ([5.0 * k for k in range(7)], [1 + 3.0 * k for k in range(11)]),
    ],
    ids=["within a longer one", "of another spacing that meets it"],
)
def test_an_acquisition_between_the_slices_of_an_unlike_one_is_a_scan_of_its_own(
    series, first, second
):
    scans, failures = scans_in(
        series(
            [*first, *second],
            SliceThickness=5,
            every=lambda k: {"AcquisitionNumber": 1 + (k >= len(first))},
        )
    )
    assert failures == []
    assert [heights(scan) for scan in scans] == [first, second]
    assert {scan.flags for scan in scans} == {("SPLIT",)}


def test_slices_of_a_micro_ct_are_one_scan(series):
    places = [round(0.009 * k, 3) for k in range(12)]
    elements = {"PixelSpacing": [0.009, 0.009], "SliceThickness": 0.009}
    (scan,), failures = scans_in(series(places, **elements))
    assert (scan.flags, failures, heights(scan)) == ((), [], places)


def test_echo_times_that_were_rounded_differently_are_one_echo(series):
    scans, _ = scans_in(
        series([5.0 * k for k in range(8)], every=lambda k: {"EchoTime": [4.6, 4.600001][k % 2]})
    )
    assert [scan.flags for scan in scans] == [()]


@pytest.mark.parametrize("tag", ["AcquisitionNumber", "TriggerTime", "RepetitionTime"])
def test_slices_acquired_in_turns_are_one_scan(series, tag):
    """Odd slices first, then even ones, as scanners do to keep neighbours from disturbing."""
    (scan,), _ = scans_in(
        series([5.0 * k for k in range(12)], SliceThickness=4, every=lambda k: {tag: 1 + k % 2})
    )
    assert scan.flags == ()
    assert values(scan) == [100 + k for k in range(12)]


@pytest.mark.parametrize("shift", [2.5, 1.7, 0.02])
def test_acquisitions_separate_slices_without_a_stated_thickness(series, shift):
    places = [5.0 * (k % 6) + shift * (k // 6) for k in range(12)]
    scans, _ = scans_in(
        series(places, every=lambda k: {"AcquisitionNumber": 1 + k // 6}, SliceThickness=None)
    )
    assert [values(scan) for scan in scans] == [
        [100 + k for k in range(6)],
        [106 + k for k in range(6)],
    ]


def test_the_stated_distance_of_slices_goes_before_their_thickness(series):
    """Overlapping slices, acquired in turns."""
    (scan,), _ = scans_in(
        series(
            [4.0 * k for k in range(12)],
            SliceThickness=5,
            SpacingBetweenSlices=4,
            every=lambda k: {"AcquisitionNumber": 1 + k % 2},
        )
    )
    assert scan.flags == ()


def test_overlapping_slices_of_one_acquisition_are_one_scan(series):
    (scan,), _ = scans_in(series([2.5 * k for k in range(12)], SliceThickness=5))
    assert scan.flags == ()


def test_thick_slabs_a_small_step_apart_are_one_scan(series):
    (scan,), _ = scans_in(series([0.5 * k for k in range(12)], SliceThickness=20))
    assert scan.flags == ()


def test_thin_slices_closer_than_a_table_returns_are_one_scan(series):
    (scan,), _ = scans_in(series([0.02 * k for k in range(12)], SliceThickness=0.02))
    assert scan.flags == ()


def test_contiguous_acquisitions_are_one_scan(series):
    (scan,), _ = scans_in(
        series([5.0 * k for k in range(12)], every=lambda k: {"AcquisitionNumber": 1 + k // 6})
    )
    assert scan.flags == ()


def test_equal_slices_of_air_in_two_acquisitions_are_no_copies(series):
    def own(k):
        return {"pixels": AIR} if k % 6 in (0, 5) else {}

    places = [5.0 * (k % 6) for k in range(12)]
    (first, second), failures = scans_in(series(places, every=own))
    assert failures == []
    assert values(first) == [0, 101, 102, 103, 104, 0]
    assert values(second) == [0, 107, 108, 109, 110, 0]
    assert "GAP" not in first.flags + second.flags


def test_an_acquisition_that_repeats_another_throughout_is_dropped(series):
    places = [5.0 * (k % 6) for k in range(12)]
    (scan,), failures = scans_in(
        series(places, every=lambda k: {"pixels": np.full((16, 16), k % 6, np.int16)})
    )
    assert values(scan) == list(range(6))
    assert scan.flags == ("DUPLICATE",)
    assert [failure.reason for failure in failures] == ["duplicate"] * 6


def test_equal_images_of_other_times_are_two_scans(series):
    places = [5.0 * (k % 6) for k in range(12)]
    scans, failures = scans_in(
        series(
            places,
            every=lambda k: {
                "pixels": np.full((16, 16), k % 6, np.int16),
                "AcquisitionTime": f"12000{k // 6}",
            },
        )
    )
    assert failures == []
    assert [values(scan) for scan in scans] == [list(range(6))] * 2


def test_patients_who_were_given_the_same_uids_in_two_folders_are_two_scans(tmp_path, write_dicom):
    for number, patient in enumerate(("a", "b")):
        for k in range(4):
            write_dicom(
                tmp_path / patient / str(k),
                AIR if k == 0 else np.full((16, 16), 10 * number + k, np.int16),
                SOPInstanceUID=f"1.2.{k + 1}",
                InstanceNumber=k + 1,
                ImagePositionPatient=[0, 0, 5 * k],
            )
    scans, failures = scans_in(tmp_path)
    assert failures == []
    assert [values(scan) for scan in scans] == [[0, 1, 2, 3], [0, 11, 12, 13]]
    for scan, patient in zip(scans, "ab", strict=True):
        assert {found.source[0] for found in scan.slices} == {patient}
        assert scan.flags == ("SPLIT",)


@pytest.mark.parametrize("start", [2.5, 200])
def test_patients_with_the_same_uids_are_two_scans_wherever_they_lay(tmp_path, write_dicom, start):
    for patient, below in (("a", 0), ("b", start)):
        for k in range(4):
            write_dicom(
                tmp_path / patient / str(k),
                InstanceNumber=k + 1,
                ImagePositionPatient=[0, 0, below + 5 * k],
                SliceThickness=5,
            )
    scans, _ = scans_in(tmp_path)
    assert [(len(scan.slices), scan.flags) for scan in scans] == [(4, ("SPLIT",))] * 2


def test_a_series_spread_over_folders_is_one_scan(tmp_path, write_dicom):
    for k in range(12):
        write_dicom(
            tmp_path / f"img{k // 5}" / str(k),
            InstanceNumber=k + 1,
            ImagePositionPatient=[0, 0, 5 * k],
        )
    (scan,), _ = scans_in(tmp_path)
    assert (len(scan.slices), scan.flags) == (12, ())


def test_two_studies_with_one_series_uid_have_label_maps_of_their_own(tmp_path, write_dicom):
    for study in "12":
        for k in range(2):
            write_dicom(
                tmp_path / "in" / study / str(k),
                StudyInstanceUID=f"1.2.{study}",
                ImagePositionPatient=[0, 0, 5 * k],
                InstanceNumber=k + 1,
            )
    scans, _ = scans_in(tmp_path / "in")
    names = [safe_name(scan) for scan in scans]
    assert len(set(names)) == 2
    assert all(scan.flags == () for scan in scans)
    assert names == [safe_name(scan) for scan in scans_in(tmp_path / "in")[0]]
    for scan in scans:
        write_labels(scan, np.zeros(scan.pixels.shape, np.uint8), tmp_path)
    assert len(list(tmp_path.glob("*.nii.gz"))) == 2
    (alone,), _ = scans_in(tmp_path / "in" / "1")
    assert safe_name(alone) == alone.series_uid


def test_echoes_of_magnitude_and_phase_are_four_scans(series):
    def own(k):
        kind = k // 3
        return {
            "EchoTime": 5 * (1 + kind % 2),
            "ImageType": ["ORIGINAL", "PRIMARY", "MP"[kind // 2]],
        }

    scans, _ = scans_in(series([5.0 * (k % 3) for k in range(12)], every=own))
    assert sorted(values(scan)[0] for scan in scans) == [100, 103, 106, 109]
    assert all(len(scan.slices) == 3 and scan.flags == ("SPLIT",) for scan in scans)


def test_spacings_that_are_one_in_other_digits_are_one_scan(series):
    (scan,), _ = scans_in(series(every=lambda k: {"PixelSpacing": [0.48825 - 1e-9 * (k % 2)] * 2}))
    assert scan.flags == ()


@pytest.mark.parametrize("scale", [0.9, 1.001, 1.3])
def test_direction_cosines_of_another_length_give_the_same_directions(series, scale):
    orientation = [scale, 0, 0, 0, scale, 0]
    (scan,), _ = scans_in(series(ImageOrientationPatient=orientation))
    assert scan.flags == ()
    assert heights(scan) == [2.0 * k for k in range(12)]


def test_a_missing_instance_number_does_not_change_the_order_by_position(series):
    (scan,), _ = scans_in(series(every=lambda _: {"InstanceNumber": None}))
    assert (values(scan), scan.flags) == ([100 + k for k in range(12)], ())


@pytest.mark.parametrize("level", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_file_replaced_after_it_was_found_is_not_mixed_in(series, write_dicom, level):
    folder = series()
    (ref,) = find([folder], scratch=folder / ".scratch")
    assert isinstance(ref, ScanRef)
    replaced = ref.files[4]
    own = {"SOPInstanceUID": f"1.2.{replaced.path.name.rpartition('-')[2]}", level: "1.2.9"}
    write_dicom(replaced.path, ImagePositionPatient=[-10, -20, 8.0], **own)
    scan = read(ref)
    assert [(f.source, f.reason) for f in scan.failures] == [(replaced.source, "changed")]
    assert len(scan.slices) == 11
    assert scan.flags == ("GAP",)


def test_a_single_file_replaced_after_it_was_found_fails(tmp_path, write_dicom):
    write_dicom(tmp_path / "a")
    (ref,) = find([tmp_path], scratch=tmp_path / ".scratch")
    assert isinstance(ref, ScanRef)
    write_dicom(tmp_path / "a", SOPInstanceUID="1.2.9")
    with pytest.raises(ReadError, match="replaced") as caught:
        read(ref)
    assert caught.value.reason == "changed"
    assert read(dataclasses.replace(ref, files=(dataclasses.replace(ref.files[0], seen=()),)))


def test_stills_that_were_never_one_scan_are_not_called_split(series):
    stills = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1", "Modality": "US"}
    unplaced = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
    scans, failures = scans_in(series([0, 5, 10], **stills, **unplaced))
    assert failures == []
    assert len(scans) == 3
    assert not any("SPLIT" in scan.flags for scan in scans)
