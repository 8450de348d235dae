"""One set of slices as pictures, NIfTI and DICOM: one set of numbers, and no patient in any."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from tests.serve.conftest import RATIOS_PER_SLICE, failures, picture, rows, run, write_volume

SLICES = np.stack([picture(index) for index in range(4)])
CANARY = "Canary"


def write_series(folder: Path) -> None:
    """The slices as a CT series of 0.8 x 0.5 mm pixels, 3 mm apart, in shuffled files."""
    folder.mkdir(parents=True)
    study, series, space = (generate_uid(entropy_srcs=[name]) for name in ("t", "s", "f"))
    for index, pixels in enumerate(SLICES):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(index)])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.FrameOfReferenceUID = space
        dataset.Modality = "CT"
        dataset.PatientName, dataset.PatientID = f"{CANARY}^Name", f"{CANARY}-ID"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImagePositionPatient = [0.0, 0.0, 3.0 * index]
        dataset.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        dataset.PixelSpacing = [0.8, 0.5]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.PixelData = (pixels.astype(np.int16) + 1024).tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.save_as(folder / f"{(index * 3) % 4}.dcm", enforce_file_format=True)


@pytest.fixture(scope="module")
def out(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a run over the three forms of the slices wrote."""
    folder = tmp_path_factory.mktemp("same")
    scans = folder / "scans"
    write_series(scans / "dicom")
    write_volume(scans / "volume.nii.gz", SLICES)
    for index, pixels in enumerate(SLICES):
        Image.fromarray(pixels).save(scans / f"{index}.png")
    out = folder / "out"
    summary = run(model, out / "ratios.csv", scans, masks=out / "masks", overlays=out / "overlays")
    assert (summary.scans, summary.slices, summary.failed) == (6, 12, 0)
    return out


def column(out: Path, name: str, form: str, ratio: str = "bright") -> list[str]:
    """One column of a form's rows of one ratio, in slice order."""
    found = [row for row in rows(out / "ratios.csv") if row["ratio_name"] == ratio]
    return [row[name] for row in found if row["source"].endswith(form)]


@pytest.mark.parametrize("ratio", ["bright", "brightest in bright", "brightest of all"])
def test_pictures_nifti_and_dicom_give_the_same_ratio(out: Path, ratio: str):
    forms = [np.array(column(out, "ratio", form, ratio), float) for form in (".png", ".gz", ".dcm")]
    assert [len(form) for form in forms] == [4, 4, 4]
    np.testing.assert_allclose(forms[1], forms[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(forms[2], forms[0], rtol=0, atol=1e-6)
    assert len(set(forms[0])) > 1


def test_nifti_and_dicom_give_the_same_lengths_and_volumes(out: Path):
    areas = [np.array(column(out, "numerator_mm2", form), float) for form in (".gz", ".dcm")]
    np.testing.assert_allclose(areas[0], areas[1], rtol=1e-6)  # NIfTI stores spacing in 32 bits
    series = [row for row in rows(out / "ratios.series.csv") if row["ratio_name"] == "bright"]
    volumes = [float(row["numerator_mm3"]) for row in series if row["numerator_mm3"]]
    pixels = sum(int(count) for count in column(out, "numerator_px", ".gz"))
    assert volumes == pytest.approx([pixels * 0.8 * 0.5 * 3] * 2)


def test_pictures_have_no_lengths(out: Path):
    assert set(column(out, "numerator_mm2", ".png")) == {""}


def test_dicom_rows_carry_the_identifiers_of_series_and_slice(out: Path):
    assert set(column(out, "modality", ".dcm")) == {"CT"}
    assert set(column(out, "series_uid", ".dcm")) == {generate_uid(entropy_srcs=["s"])}
    instances = [generate_uid(entropy_srcs=[str(index)]) for index in range(4)]
    assert column(out, "instance_uid", ".dcm") == instances
    assert column(out, "slice", ".dcm") == ["0", "1", "2", "3"]


def test_no_output_holds_the_patient(out: Path):
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) == 3 + 6 + 12 + 2
    for path in written:
        assert CANARY not in str(path.relative_to(out))
        assert CANARY.encode() not in path.read_bytes()


def test_a_broken_file_of_a_series_costs_only_its_own_slice(model: Path, tmp_path: Path):
    write_series(tmp_path / "scans")
    cut = tmp_path / "scans" / "3.dcm"
    cut.write_bytes(cut.read_bytes()[:-100])
    summary = run(model, tmp_path / "ratios.csv", tmp_path / "scans")
    assert len(rows(tmp_path / "ratios.csv")) == 3 * RATIOS_PER_SLICE
    assert [row["source"] for row in failures(tmp_path / "ratios.csv")] == ["3.dcm"]
    assert (summary.scans, summary.slices, summary.exit_code) == (1, 3, 8)


def test_every_file_of_a_series_that_cannot_be_read_is_told(model: Path, tmp_path: Path):
    write_series(tmp_path / "scans")
    for file in (tmp_path / "scans").iterdir():
        file.write_bytes(file.read_bytes()[:-100])
    summary = run(model, tmp_path / "ratios.csv", tmp_path / "scans")
    told = [row["source"] for row in failures(tmp_path / "ratios.csv")]
    assert sorted(told) == ["0.dcm", "1.dcm", "2.dcm", "3.dcm"]
    assert (summary.failed, summary.exit_code) == (4, 4)
