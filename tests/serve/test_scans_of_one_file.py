"""Several scans in one DICOM file: rows, volumes, label maps and known ratios of each."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian

from tests.serve.conftest import LEVELS, failures, label_maps, rows, run
from wsseg.imaging import AllFailedError, TableError

PLACES = (8.0, 0.0, 4.0)
ECHOES = (5.0, 10.0)
SHAPE = (20, 30)
PIXEL_MM3 = 0.5 * 0.7 * 4


def item(**elements) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.fixture
def two_echoes(tmp_path: Path) -> Path:
    """A folder with one file: two echoes slice by slice; frame k is bright in k columns."""
    frames = np.zeros((6, *SHAPE), np.uint8)
    for number in range(1, 7):
        frames[number - 1, :, :number] = LEVELS[0] + 1
    dataset = item(
        SOPClassUID=EnhancedMRImageStorage,
        SOPInstanceUID="1.2.3.4",
        StudyInstanceUID="1.2",
        SeriesInstanceUID="1.2.3",
        Modality="MR",
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        Rows=SHAPE[0],
        Columns=SHAPE[1],
        NumberOfFrames=6,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        SharedFunctionalGroupsSequence=[
            item(
                PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
                PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.7], SliceThickness=4)],
            )
        ],
        PerFrameFunctionalGroupsSequence=[
            item(
                PlanePositionSequence=[item(ImagePositionPatient=[0, 0, place])],
                MREchoSequence=[item(EffectiveEchoTime=echo)],
            )
            for place in PLACES
            for echo in ECHOES
        ],
        PixelData=frames.tobytes(),
    )
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset["PixelData"].VR = "OB"
    folder = tmp_path / "scans"
    folder.mkdir()
    dataset.save_as(folder / "echoes.dcm", enforce_file_format=True)
    return folder


def test_each_frame_has_its_rows_once_and_each_scan_its_volume(model, two_echoes, tmp_path):
    report, masks = tmp_path / "ratios.csv", tmp_path / "masks"
    summary = run(model, report, two_echoes, masks=masks)
    assert (summary.scans, summary.slices, summary.exit_code) == (2, 6, 0)
    bright = [row for row in rows(report) if row["ratio_name"] == "bright"]
    assert [(row["frame"], row["slice"]) for row in bright] == [
        *(("3", "0"), ("5", "1"), ("1", "2")),
        *(("4", "0"), ("6", "1"), ("2", "2")),
    ]
    for row in bright:
        assert int(row["numerator_px"]) == int(row["frame"]) * SHAPE[0]
    series = [row for row in rows(tmp_path / "ratios.series.csv") if row["ratio_name"] == "bright"]
    assert [row["part"] for row in series] == ["0", "1"]
    for row, frames in zip(series, ((3, 5, 1), (4, 6, 2)), strict=True):
        assert float(row["numerator_mm3"]) == pytest.approx(sum(frames) * SHAPE[0] * PIXEL_MM3)
        assert "SPLIT" in row["flags"]
    assert [path.name for path in label_maps(masks)] == ["1.2.3-part1.nii.gz", "1.2.3.nii.gz"]


def test_a_known_ratio_names_the_frame(model, two_echoes, tmp_path):
    known = tmp_path / "known.csv"
    known.write_text("source,frame,ratio:bright\nechoes.dcm,5,0.25\nechoes.dcm,2,0.5\n")
    run(model, tmp_path / "ratios.csv", two_echoes, known_ratios=known)
    found = rows(tmp_path / "ratios.recovered.csv")
    assert [(row["frame"], row["slice"], row["known_ratio"]) for row in found] == [
        ("5", "1", "0.25"),
        ("2", "2", "0.5"),
    ]
    assert failures(tmp_path / "ratios.csv") == []


def test_a_known_ratio_that_could_be_of_several_scans_is_refused(model, two_echoes, tmp_path):
    known = tmp_path / "known.csv"
    known.write_text("source,slice,ratio:bright\nechoes.dcm,1,0.25\n")
    with pytest.raises(TableError, match="2 volumes: fill in the column frame"):
        run(model, tmp_path / "ratios.csv", two_echoes, known_ratios=known)


def test_a_broken_file_of_several_scans_fails_once(model, two_echoes, tmp_path):
    path = two_echoes / "echoes.dcm"
    path.write_bytes(path.read_bytes()[:-100])
    assert run(model, tmp_path / "ratios.csv", two_echoes).exit_code == AllFailedError.exit_code
    assert [row["reason"] for row in failures(tmp_path / "ratios.csv")] == ["truncated"]
