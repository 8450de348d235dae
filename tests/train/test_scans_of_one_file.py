"""Cases in a DICOM file that holds several scans: which scan, and which of its slices."""

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian

from wsseg.imaging import TableError
from wsseg.train.cases import read_cases, read_image


def item(**elements):
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.fixture
def table(tmp_path):
    """Writes a table of cases of two times with three slices each; frame k has the value k."""
    dataset = item(
        SOPClassUID=EnhancedMRImageStorage,
        SOPInstanceUID="1.2.3.4",
        Modality="MR",
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        Rows=8,
        Columns=8,
        NumberOfFrames=6,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        PerFrameFunctionalGroupsSequence=[
            item(
                PlanePositionSequence=[item(ImagePositionPatient=[0, 0, place])],
                PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
                FrameContentSequence=[item(TemporalPositionIndex=time)],
            )
            for place in (8, 0, 4)
            for time in (1, 2)
        ],
        PixelData=np.repeat(np.arange(6, dtype=np.uint8), 64).tobytes(),
    )
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset["PixelData"].VR = "OB"
    dataset.save_as(tmp_path / "times.dcm", enforce_file_format=True)

    def write(header, *lines):
        path = tmp_path / "cases.csv"
        path.write_text("\n".join([f"image,ratio,{header}", *lines]) + "\n")
        return path

    return write


def test_a_case_is_a_slice_of_one_scan_by_position(table):
    lines = [f"times.dcm,0.1,{volume},{k}" for volume in (0, 1) for k in range(3)]
    cases = read_cases(table("volume,slice", *lines)).cases
    assert [read_image(case, 1).flat[0] for case in cases] == [2, 4, 0, 3, 5, 1]


def test_a_case_that_does_not_say_which_scan_is_refused(table):
    with pytest.raises(TableError, match=r"2 scans.*column named volume"):
        read_cases(table("slice", "times.dcm,0.1,0"))


@pytest.mark.parametrize(("volume", "index"), [(2, 0), (0, 3)])
def test_a_scan_or_slice_that_is_not_there_is_refused(table, volume, index):
    with pytest.raises(TableError, match=r"there is no (volume|slice)"):
        read_cases(table("volume,slice", f"times.dcm,0.1,{volume},{index}"))
