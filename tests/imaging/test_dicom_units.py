"""Values are in the unit that is expected of them, or the scan says that they are not."""

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    BreastTomosynthesisImageStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForProcessing,
    EnhancedCTImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    MRImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

from wsseg.imaging import FileRef, ScanRef, Window, read_slice
from wsseg.imaging.dicom import read_dicom
from wsseg.serve.empty_slices import skip_empty


def read(path):
    return read_dicom(ScanRef("dicom", (FileRef(path, path.name),)))


def item(**elements):
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def mapping(unit, slope=1.0, intercept=0.0):
    code = item(CodeValue=unit, CodingSchemeDesignator="UCUM", CodeMeaning="unit")
    return item(
        MeasurementUnitsCodeSequence=[code],
        RealWorldValueSlope=float(slope),
        RealWorldValueIntercept=float(intercept),
    )


def table(unit):
    entries = item(LUTDescriptor=[2, 0, 16], ModalityLUTType=unit)
    entries.LUTData = np.array([0, 1], "<u2").tobytes()
    entries["LUTData"].VR = "OW"
    return [entries]


NO_RESCALE = {"RescaleSlope": None, "RescaleIntercept": None}


@pytest.mark.parametrize(
    ("elements", "in_hu"),
    [
        ({}, True),
        ({"RescaleType": "HU"}, True),
        ({"RescaleType": "hu"}, True),
        ({"RescaleType": "US"}, False),
        ({"RescaleIntercept": 0}, True),
        ({"RescaleIntercept": None}, False),
        (NO_RESCALE, False),
        ({"RescaleType": "Z_EFF"}, False),
        ({"RescaleType": "MGML"}, False),
        ({"RescaleType": "HU_MOD"}, False),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "VMI"], "RescaleType": "HU"}, True),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "ELECTRON_DENSITY"]}, False),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "RescaleType": "HU"}, False),
        ({"MultienergyCTAcquisition": "YES"}, False),
        ({"MultienergyCTAcquisition": "YES", "RescaleType": "HU"}, True),
        ({"MultienergyCTAcquisition": "NO"}, True),
        ({"RealWorldValueMappingSequence": [mapping("mg/cm3")]}, False),
        ({"RealWorldValueMappingSequence": [mapping("[hnsf'U]")]}, True),
        (
            {"RealWorldValueMappingSequence": [mapping("mg/cm3")], "RescaleType": "HU"},
            True,
        ),
        ({"ModalityLUTSequence": table("HU")} | NO_RESCALE, True),
        ({"ModalityLUTSequence": table("US")} | NO_RESCALE, False),
    ],
)
def test_a_ct_image_says_whether_it_is_in_hounsfield_units(tmp_path, write_dicom, elements, in_hu):
    path = write_dicom(tmp_path / "a", np.zeros((16, 16), np.uint16), **elements)
    assert ("NOT_HU" not in read(path).flags) == in_hu


@pytest.mark.parametrize(
    ("elements", "in_hu"),
    [
        ({}, False),
        ({"RescaleType": "HU"}, True),
        ({"RescaleType": "US"}, False),
        ({"SOPClassUID": MultiFrameGrayscaleByteSecondaryCaptureImageStorage}, False),
        ({"pixels": np.zeros((16, 16, 3), np.uint8), "RescaleType": "HU"}, False),
    ],
)
def test_the_capture_of_a_ct_is_in_hounsfield_units_only_if_it_says_so(
    tmp_path, write_dicom, elements, in_hu
):
    pixels = elements.pop("pixels", np.zeros((16, 16), np.uint8))
    path = write_dicom(
        tmp_path / "a", pixels, **({"SOPClassUID": SecondaryCaptureImageStorage} | elements)
    )
    assert ("NOT_HU" not in read(path).flags) == in_hu


def enhanced(path, write_dicom, types, **elements):
    """An enhanced CT with one frame for each RescaleType; None for a frame without rescale."""
    groups = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 3.0 * number])],
            **(
                {}
                if kind is None
                else {
                    "PixelValueTransformationSequence": [
                        item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType=kind)
                    ]
                }
            ),
        )
        for number, kind in enumerate(types)
    ]
    defaults = {
        "SOPClassUID": EnhancedCTImageStorage,
        "ImagePositionPatient": None,
        "NumberOfFrames": len(types),
        "SharedFunctionalGroupsSequence": [
            item(PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])])
        ],
        "PerFrameFunctionalGroupsSequence": groups,
    }
    pixels = np.zeros((len(types), 16, 16), np.uint16)
    return write_dicom(path, pixels, **(NO_RESCALE | defaults | elements))


@pytest.mark.parametrize(
    "sop_class", [EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage]
)
@pytest.mark.parametrize(
    ("types", "in_hu"),
    [
        (["HU"], True),
        (["HU", "HU"], True),
        (["Z_EFF"], False),
        (["Z_EFF", "Z_EFF"], False),
        (["HU", "MGML"], False),
        ([None], False),
        (["HU", None], False),
    ],
)
def test_every_frame_of_an_enhanced_ct_counts(tmp_path, write_dicom, sop_class, types, in_hu):
    scan = read(enhanced(tmp_path / "a", write_dicom, types, SOPClassUID=sop_class))
    assert ("NOT_HU" not in scan.flags) == in_hu


def test_a_frame_of_several_energies_that_shows_no_attenuation_is_not_in_hounsfield_units(
    tmp_path, write_dicom
):
    frame_type = item(FrameType=["DERIVED", "PRIMARY", "VOLUME", "MAT_SPECIFIC"])
    shared = item(CTImageFrameTypeSequence=[frame_type])
    path = enhanced(tmp_path / "a", write_dicom, ["HU"], SharedFunctionalGroupsSequence=[shared])
    assert "NOT_HU" in read(path).flags


def test_several_frames_without_groups_need_a_rescale_as_well(tmp_path, write_dicom):
    pixels = np.zeros((2, 16, 16), np.uint16)
    path = write_dicom(tmp_path / "a", pixels, NumberOfFrames=2, **NO_RESCALE)
    assert "NOT_HU" in read(path).flags


def test_only_air_in_hounsfield_units_is_left_out_as_empty(tmp_path, write_dicom):
    stored = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 40
    size = {"Rows": 64, "Columns": 64, "RescaleIntercept": -1024}
    rule = skip_empty(Window(low=-160, high=240))

    def empty(path):
        scan = read(path)
        return [rule(scan)(plane) for plane in scan.pixels]

    assert empty(write_dicom(tmp_path / "air", stored, **size)) == [True]
    for name, elements in (
        ("map", {"RescaleType": "EDW"}),
        ("capture", {"SOPClassUID": SecondaryCaptureImageStorage}),
        ("scout", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
    ):
        path = write_dicom(tmp_path / name, stored, **size, **elements)
        assert empty(path) == [False], name


RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)


@pytest.mark.parametrize(
    ("sop_class", "modality", "elements"),
    [
        (CTImageStorage, "CT", {}),
        (CTImageStorage, "CT", {"RescaleType": "HU"}),
        (MRImageStorage, "MR", {}),
        (NuclearMedicineImageStorage, "NM", {}),
        (PositronEmissionTomographyImageStorage, "PT", {"Units": "BQML"}),
        ("1.2.3.4", "PT", {}),
        (SecondaryCaptureImageStorage, "CT", {"RescaleType": "HU"}),
    ],
)
def test_what_was_measured_is_never_inverted(tmp_path, write_dicom, sop_class, modality, elements):
    path = write_dicom(
        tmp_path / "a",
        RAMP,
        SOPClassUID=sop_class,
        Modality=modality,
        PhotometricInterpretation="MONOCHROME1",
        RescaleSlope=2,
        RescaleIntercept=-100,
        **elements,
    )
    scan = read(path)
    np.testing.assert_array_equal(scan.pixels[0], RAMP * 2.0 - 100)
    np.testing.assert_array_equal(read_slice(path), RAMP * 2.0 - 100)
    assert "MONOCHROME1" not in scan.flags


@pytest.mark.parametrize(
    ("sop_class", "modality", "elements"),
    [
        (ComputedRadiographyImageStorage, "CR", {}),
        (DigitalMammographyXRayImageStorageForProcessing, "MG", {}),
        (ComputedRadiographyImageStorage, "CR", {"RescaleType": "OD"}),
        (ComputedRadiographyImageStorage, "CR", {"RescaleType": "LOG_E REL"}),
        (BreastTomosynthesisImageStorage, "MG", {}),
        (UltrasoundImageStorage, "US", {}),
        (SecondaryCaptureImageStorage, "CT", {}),
        (SecondaryCaptureImageStorage, "OT", {"RescaleType": "US"}),
    ],
)
def test_what_was_made_to_be_looked_at_is_inverted(
    tmp_path, write_dicom, sop_class, modality, elements
):
    path = write_dicom(
        tmp_path / "a",
        RAMP,
        BitsStored=8,
        HighBit=7,
        SOPClassUID=sop_class,
        Modality=modality,
        PhotometricInterpretation="MONOCHROME1",
        **elements,
    )
    scan = read(path)
    np.testing.assert_array_equal(scan.pixels[0], 255.0 - RAMP)
    assert "MONOCHROME1" in scan.flags


DOSE_BQ, WEIGHT_KG, HALF_LIFE_S = 3.7e8, 74.0, 6586.2


def isotope(**changes):
    elements = {
        "RadionuclideTotalDose": DOSE_BQ,
        "RadionuclideHalfLife": HALF_LIFE_S,
        "RadiopharmaceuticalStartTime": "130000",
    }
    return [item(**{key: value for key, value in (elements | changes).items() if value})]


PET = {
    "SOPClassUID": PositronEmissionTomographyImageStorage,
    "Modality": "PT",
    "Units": "BQML",
    "CorrectedImage": ["ATTN", "DECY", "SCAT"],
    "DecayCorrection": "START",
    "PatientWeight": WEIGHT_KG,
    "SeriesDate": "20240305",
    "SeriesTime": "140000",
    "AcquisitionDate": "20240305",
    "AcquisitionTime": "140500.25",
    "RadiopharmaceuticalInformationSequence": isotope(),
    "RescaleSlope": 2,
}


def expected_suv(elapsed_s):
    return RAMP * 2.0 * WEIGHT_KG * 1000 / (DOSE_BQ * 0.5 ** (elapsed_s / HALF_LIFE_S))


@pytest.mark.parametrize(
    ("elements", "elapsed_s"),
    [
        ({}, 3600),
        ({"DecayCorrection": "ADMIN"}, 0),
        ({"AcquisitionTime": "135959.5"}, 3600),
        (
            {
                "SeriesTime": "003000",
                "AcquisitionTime": "004000",
                "RadiopharmaceuticalInformationSequence": isotope(
                    RadiopharmaceuticalStartTime="233000.0"
                ),
            },
            3600,
        ),
        (
            {
                "RadiopharmaceuticalInformationSequence": isotope(
                    RadiopharmaceuticalStartTime="000000",
                    RadiopharmaceuticalStartDateTime="20240305124500.000000+0100",
                )
            },
            4500,
        ),
        # Processed the next day: the frame alone knows when the scan began, 300 s before it.
        (
            {
                "SeriesDate": "20240306",
                "FrameReferenceTime": 300250,
                "ActualFrameDuration": 1,
            },
            3600,
        ),
    ],
    ids=["start", "administration", "rounded", "midnight", "with its date", "processed later"],
)
def test_pet_is_read_as_uptake_where_the_header_allows_it(
    tmp_path, write_dicom, elements, elapsed_s
):
    path = write_dicom(tmp_path / "a", RAMP, **(PET | elements))
    scan = read(path)
    np.testing.assert_allclose(scan.pixels[0], expected_suv(elapsed_s), rtol=2e-6)
    np.testing.assert_array_equal(read_slice(path), scan.pixels[0])
    assert "NOT_SUV" not in scan.flags


@pytest.mark.parametrize(
    "elements",
    [
        {"PatientWeight": None},
        {"PatientWeight": 0},
        {"PatientWeight": 74000},
        {"Units": "CNTS"},
        {"Units": "PROPCPS"},
        {"CorrectedImage": ["DECY"]},
        {"DecayCorrection": "NONE"},
        {"DecayCorrection": None},
        {"SeriesDate": "20240306"},
        {"RadiopharmaceuticalInformationSequence": None},
        {"RadiopharmaceuticalInformationSequence": isotope(RadionuclideTotalDose=370)},
        {"RadiopharmaceuticalInformationSequence": isotope(RadionuclideHalfLife=None)},
        {"RadiopharmaceuticalInformationSequence": isotope(RadionuclideHalfLife=109.77)},
        {"RadiopharmaceuticalInformationSequence": isotope(RadiopharmaceuticalStartTime=None)},
        {
            "RadiopharmaceuticalInformationSequence": isotope(
                RadiopharmaceuticalStartDateTime="20190101120000"
            )
        },
        {"RadiopharmaceuticalInformationSequence": isotope(RadionuclideHalfLife=282276)},
    ],
)
def test_pet_without_all_that_uptake_takes_keeps_its_quantity_and_says_so(
    tmp_path, write_dicom, elements
):
    scan = read(write_dicom(tmp_path / "a", RAMP, **(PET | elements)))
    np.testing.assert_array_equal(scan.pixels[0], RAMP * 2.0)
    assert "NOT_SUV" in scan.flags


@pytest.mark.parametrize(("kind", "flag"), [(None, False), ("BW", False), ("LBM", True)])
def test_pet_in_grams_per_millilitre_stays_as_it_is(tmp_path, write_dicom, kind, flag):
    elements = PET | {"Units": "GML", "SUVType": kind, "PatientWeight": None}
    scan = read(write_dicom(tmp_path / "a", RAMP, **elements))
    np.testing.assert_array_equal(scan.pixels[0], RAMP * 2.0)
    assert ("NOT_SUV" in scan.flags) == flag


@pytest.mark.parametrize("tag", [0x70531000, 0x70531009])
def test_counts_take_the_factor_that_their_maker_gives(tmp_path, write_dicom, tag):
    path = write_dicom(tmp_path / "a", RAMP, **(PET | {"Units": "CNTS"}))
    dataset = dcmread(path)
    dataset.add_new(0x70530010, "LO", "Philips PET Private Group")
    dataset.add_new(tag, "DS", "0.25")
    dataset.save_as(path)
    expected = RAMP * 0.5 if tag == 0x70531000 else expected_suv(3600) / 4
    scan = read(path)
    np.testing.assert_allclose(scan.pixels[0], expected, rtol=2e-6)
    assert "NOT_SUV" not in scan.flags


def test_the_scan_time_of_a_processed_series_may_stand_in_its_makers_element(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a", RAMP, **(PET | {"SeriesDate": "20240306"}))
    dataset = dcmread(path)
    dataset.add_new(0x00090010, "LO", "GEMS_PETD_01")
    dataset.add_new(0x0009100D, "DT", "20240305140000.00")
    dataset.save_as(path)
    np.testing.assert_allclose(read(path).pixels[0], expected_suv(3600), rtol=2e-6)


def test_slices_of_several_slopes_are_on_one_scale(tmp_path, write_dicom):
    one, other = (
        read(
            write_dicom(
                tmp_path / name,
                (RAMP // slope).astype(np.uint16),
                **(PET | {"RescaleSlope": slope}),
            )
        )
        for name, slope in (("a", 2), ("b", 4))
    )
    even = RAMP % 4 == 0
    np.testing.assert_allclose(one.pixels[0][even], other.pixels[0][even], rtol=1e-6)


def test_an_enhanced_pet_takes_the_mapping_to_uptake_that_it_brings(tmp_path, write_dicom):
    groups = [
        item(RealWorldValueMappingSequence=[mapping("Bq/ml", 5), mapping("{SUVbw}g/ml", 0.5)])
    ]
    path = write_dicom(
        tmp_path / "a",
        RAMP,
        SOPClassUID=EnhancedPETImageStorage,
        Modality="PT",
        NumberOfFrames=1,
        PerFrameFunctionalGroupsSequence=groups,
    )
    scan = read(path)
    np.testing.assert_array_equal(scan.pixels[0], RAMP * 0.5)
    assert "NOT_SUV" not in scan.flags


def test_an_enhanced_pet_in_activity_is_decayed_to_the_time_it_names(tmp_path, write_dicom):
    groups = [item(RealWorldValueMappingSequence=[mapping("Bq/ml", 2)])]
    path = write_dicom(
        tmp_path / "a",
        RAMP,
        SOPClassUID=EnhancedPETImageStorage,
        Modality="PT",
        NumberOfFrames=1,
        PerFrameFunctionalGroupsSequence=groups,
        PatientWeight=WEIGHT_KG,
        AttenuationCorrected="YES",
        DecayCorrected="YES",
        DecayCorrectionDateTime="20240305140000",
        RadiopharmaceuticalInformationSequence=isotope(
            RadiopharmaceuticalStartTime=None, RadiopharmaceuticalStartDateTime="20240305130000"
        ),
    )
    np.testing.assert_allclose(read(path).pixels[0], expected_suv(3600), rtol=2e-6)


def test_a_converted_pet_keeps_what_uptake_takes_among_its_unassigned_attributes(
    tmp_path, write_dicom
):
    apart = ("Units", "CorrectedImage", "DecayCorrection", "AcquisitionDate", "AcquisitionTime")
    unassigned = item(**{keyword: PET[keyword] for keyword in apart})
    path = write_dicom(
        tmp_path / "a",
        RAMP,
        **(
            PET
            | dict.fromkeys(apart)
            | {
                "SOPClassUID": LegacyConvertedEnhancedPETImageStorage,
                "NumberOfFrames": 1,
                "SharedFunctionalGroupsSequence": [
                    item(UnassignedSharedConvertedAttributesSequence=[unassigned])
                ],
            }
        ),
    )
    np.testing.assert_allclose(read(path).pixels[0], expected_suv(3600), rtol=2e-6)
