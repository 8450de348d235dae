"""Label pictures mean one class each, however a program stored them; a map names other numbers."""

import tomllib
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from wsseg.imaging import (
    Numbering,
    ReadError,
    TableError,
    WssegError,
    numbering,
    read_label_slice,
    read_slice,
)
from wsseg.train.cases import case_marks, case_mask, read_cases
from wsseg.train.config import TrainConfig
from wsseg.train.simulate import simulate_marks

INSIDE = np.zeros((24, 32), bool)
INSIDE[4:9, 6:20] = True
ONE = Numbering(one_class=True)
RED, GREEN = (255, 0, 0), (0, 255, 0)


def paletted(path, index, colours, **options):
    picture = Image.fromarray(np.asarray(index, np.uint8))
    picture.putpalette([value for colour in colours for value in colour])
    picture.save(path, **options)
    return path


def refused(path, **options):
    with pytest.raises(ReadError) as caught:
        read_label_slice(path, **options)
    return caught.value.reason


@pytest.mark.parametrize("first", [0, 1])
def test_black_and_white_mean_the_same_in_either_order_of_a_palette(tmp_path, first):
    colours = [(0, 0, 0), (255, 255, 255)]
    path = paletted(tmp_path / "a.png", INSIDE ^ bool(first), colours[:: -1 if first else 1])
    assert np.array_equal(read_label_slice(path), INSIDE)
    white = numbering(("roi",), {"roi": (255,)})
    assert np.array_equal(read_label_slice(path, numbering=white), INSIDE)
    Image.fromarray(INSIDE).save(tmp_path / "bits.png")
    assert np.array_equal(read_label_slice(tmp_path / "bits.png", numbering=white), INSIDE)


@pytest.mark.parametrize("colours", [2, 3, 8])
def test_what_a_program_makes_of_a_map_with_few_colours_keeps_its_numbers(tmp_path, colours):
    labels = np.where(INSIDE, 2, 0).astype(np.uint8)
    labels[20:, :5] = 1
    Image.fromarray(labels).convert("RGB").quantize(colours + 1).save(tmp_path / "a.png")
    Image.fromarray(labels).convert("P").save(tmp_path / "b.gif")
    assert np.array_equal(read_label_slice(tmp_path / "a.png"), labels)
    assert np.array_equal(read_label_slice(tmp_path / "b.gif"), labels)


def voc_colours(count):
    """The first colours of the map of PASCAL VOC, by its definition."""
    colours = []
    for index in range(count):
        rgb, rest = [0, 0, 0], index
        for bit in range(7, -1, -1):
            rgb = [value | ((rest >> channel & 1) << bit) for channel, value in enumerate(rgb)]
            rest >>= 3
        colours.append(tuple(rgb))
    return colours


def test_the_voc_map_gives_its_numbers_until_somebody_renumbers_it(tmp_path):
    labels = np.where(INSIDE, 2, 0).astype(np.uint8)
    labels[20:, :5] = 1
    colours = voc_colours(21)
    assert colours[1:3] == [(128, 0, 0), (0, 128, 0)]
    path = paletted(tmp_path / "a.png", labels, colours)
    assert np.array_equal(read_label_slice(path), labels)
    order = np.array([2, 0, 1])
    renumbered = paletted(
        tmp_path / "b.png", np.argsort(order)[labels], [colours[k] for k in order]
    )
    assert refused(renumbered) == "colour_labels"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_other_colours_are_classes_only_where_a_map_names_them(tmp_path, order):
    colours = np.array([(0, 0, 0), RED, GREEN])
    labels = np.where(INSIDE, 2, 0).astype(np.uint8)
    labels[20:, :5] = 1
    path = paletted(
        tmp_path / "a.png", np.argsort(order)[labels], [tuple(colours[k]) for k in order]
    )
    Image.fromarray(colours[labels].astype(np.uint8)).save(tmp_path / "rgb.png")
    named = numbering(("lumen", "wall"), {"lumen": ("#FF0000",), "wall": ("#00ff00",)})
    for each in (path, tmp_path / "rgb.png"):
        assert refused(each) == "colour_labels"
        assert np.array_equal(read_label_slice(each, numbering=named), labels)
    half = numbering(("wall",), {"wall": ("#00ff00",)})
    assert refused(path, numbering=half) == "colour_labels"


@pytest.mark.parametrize("first", [0, 1])
def test_one_colour_on_black_is_the_only_class(tmp_path, first):
    colours = [(0, 0, 0), RED]
    path = paletted(tmp_path / "a.png", INSIDE ^ bool(first), colours[:: -1 if first else 1])
    assert np.array_equal(read_label_slice(path, numbering=ONE), INSIDE)
    assert refused(path) == "colour_labels"


def mask_of(case):
    labels = case_mask(case, 1)
    assert labels is not None
    return labels


def marks_of(case):
    labels = case_marks(case)
    assert labels is not None
    return labels


def rgba(path, colour, beside, alpha):
    values = np.empty((*INSIDE.shape, 4), np.uint8)
    values[..., :3] = np.where(INSIDE[..., None], colour, beside)
    values[..., 3] = alpha
    Image.fromarray(values).save(path)
    return path


OPAQUE_INSIDE = np.where(INSIDE, 255, 0)


@pytest.mark.parametrize(
    ("colour", "beside", "alpha", "expected"),
    [
        (255, 255, OPAQUE_INSIDE, INSIDE * 255),
        (255, 0, OPAQUE_INSIDE, INSIDE * 255),
        (255, 0, 255, INSIDE * 255),
        (1, 255, OPAQUE_INSIDE, INSIDE),
        (0, 0, OPAQUE_INSIDE, INSIDE),
        (255, 255, OPAQUE_INSIDE // 2, INSIDE * 255),
    ],
)
def test_a_region_may_be_told_by_opacity(tmp_path, colour, beside, alpha, expected):
    path = rgba(tmp_path / "a.png", colour, beside, alpha)
    assert np.array_equal(read_label_slice(path, numbering=ONE), expected)


def test_grey_with_opacity_and_a_transparent_palette_entry_are_alike(tmp_path):
    values = np.stack([np.full(INSIDE.shape, 255), OPAQUE_INSIDE], axis=-1).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(read_label_slice(tmp_path / "a.png"), INSIDE * 255)
    path = paletted(tmp_path / "b.png", INSIDE, [(255, 255, 255)] * 2, transparency=0)
    assert np.array_equal(read_label_slice(path), INSIDE)


def test_a_transparent_value_of_few_bits_is_found(tmp_path):
    def chunk(name, content):
        total = zlib.crc32(name + content)
        return len(content).to_bytes(4, "big") + name + content + total.to_bytes(4, "big")

    # 4-bit grey: 2 on 3, 3 being transparent.
    lines = b"".join(b"\0" + bytes([0x23, 0x33]) for _ in range(2))
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", bytes([0, 0, 0, 4, 0, 0, 0, 2, 4, 0, 0, 0, 0]))
        + chunk(b"tRNS", bytes([0, 3]))
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
    named = numbering(("roi",), {"roi": (34,)})
    assert read_label_slice(tmp_path / "a.png", numbering=named).tolist() == [[1, 0, 0, 0]] * 2


def test_opacity_and_colours_that_contradict_each_other_are_refused(tmp_path):
    soft = OPAQUE_INSIDE.copy()
    soft[4] //= 2
    hidden = np.where(INSIDE, 0, 255)
    hidden[0] = 9
    for name, path in {
        "a region cut out of black": rgba(tmp_path / "a.png", 255, 0, 255 - OPAQUE_INSIDE),
        "soft edges": rgba(tmp_path / "b.png", 255, 255, soft),
        "labels under transparency": rgba(
            tmp_path / "c.png", 1, np.arange(32)[None, :, None], OPAQUE_INSIDE
        ),
    }.items():
        assert refused(path, numbering=ONE) == "label_alpha", name


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_a_map_reads_numbers_of_every_format(tmp_path, dtype):
    labels = np.where(INSIDE, 200, 0).astype(dtype)
    labels[20:, :5] = 3
    if dtype != np.uint8:
        labels[labels == 200] = 14175
    path = tmp_path / "a.tif"
    Image.fromarray(labels).save(path)
    large = 200 if dtype == np.uint8 else 14175
    named = numbering(("cyst", "lumen"), {"cyst": (3, 4), "lumen": (large,)})
    expected = np.select([labels == 3, labels == large], [1, 2])
    assert np.array_equal(read_label_slice(path, numbering=named), expected)
    if dtype != np.uint8:
        assert refused(path) == "not_labels"


def test_black_and_white_of_16_bits_are_those_of_8(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(INSIDE.astype(np.uint16) * 65535).save(path)
    assert np.array_equal(read_label_slice(path), INSIDE * 255)
    named = numbering(("cyst", "lumen"), {"cyst": (1,), "lumen": (65535,)})
    assert np.array_equal(read_label_slice(path, numbering=named), INSIDE * 2)
    grey = numbering(("cyst",), {"cyst": (255,)})
    assert np.array_equal(read_label_slice(path, numbering=grey), INSIDE)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"cyst": (1,)}, "lumen is missing"),
        ({"cyst": (1,), "lumen": (2,), "wall": (3,)}, "wall is no class"),
        ({"cyst": (1, 2), "lumen": (2,)}, "2 stands twice"),
        ({"cyst": ("#0a0a0a",), "lumen": (10,)}, "10 stands twice"),
    ],
)
def test_a_map_that_is_not_clear_is_refused(labels, message):
    with pytest.raises(WssegError, match=message):
        numbering(("cyst", "lumen"), labels)


def test_a_map_is_a_table_of_the_settings():
    text = '[labels]\nkidney = [2, 3]\ncyst = 7\nwall = "#ff0000"\n'
    config = TrainConfig.model_validate(tomllib.loads(text))
    assert config.labels == {"kidney": (2, 3), "cyst": (7,), "wall": ("#ff0000",)}
    with pytest.raises(ValueError, match="labels"):
        TrainConfig.model_validate({"labels": {"kidney": [-1]}})


@pytest.fixture
def kidneys(tmp_path):
    """A table whose masks number the kidneys 2 and 3 and the liver 1; marks likewise."""
    Image.fromarray(np.zeros(INSIDE.shape, np.uint8)).save(tmp_path / "image.png")
    mask = np.where(INSIDE, 2, 0).astype(np.uint8)
    mask[12:16, 6:20] = 3
    mask[20:, :] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    marks = np.zeros(INSIDE.shape, np.uint8)
    marks[5, 7], marks[13, 7], marks[0, 0] = 2, 3, 255
    Image.fromarray(marks).save(tmp_path / "marks.png")
    path = tmp_path / "cases.csv"
    path.write_text("image,mask,marks,ratio:kidney\nimage.png,mask.png,marks.png,\n")
    return path, np.isin(mask, (2, 3))


def test_a_map_counts_in_masks_and_marks_and_tells_what_it_leaves_out(kidneys):
    path, inside = kidneys
    with pytest.raises(TableError, match="no class numbers"):
        read_cases(path)
    table = read_cases(path, labels={"kidney": (2, 3)})
    (case,) = table.cases
    assert np.array_equal(mask_of(case), inside)
    marks = marks_of(case)
    assert marks[5, 7] == marks[13, 7] == 1
    assert marks[0, 0] == 255
    assert any("label numbers 1 stand for no class" in doubt for doubt in table.doubts)
    named = read_cases(path, labels={"kidney": (2, 3), "background": (1,)})
    assert not any("stand for no class" in doubt for doubt in named.doubts)


def test_a_background_of_the_map_is_marked_as_background_in_marks_alone(kidneys):
    path, _ = kidneys
    marks = np.full(INSIDE.shape, 4, np.uint8)
    marks[5, 7], marks[0, 0] = 2, 0
    Image.fromarray(marks).save(path.parent / "marks.png")
    (case,) = read_cases(path, labels={"kidney": (2, 3), "background": (0, 1)}).cases
    found = marks_of(case)
    assert (found[5, 7], found[0, 0], found[9, 9]) == (1, 255, 0)
    assert not mask_of(case)[20:].any()


def test_marks_simulated_by_a_map_need_it_no_more(kidneys, tmp_path):
    path, inside = kidneys
    path.write_text("image,mask,marks\nimage.png,mask.png,marks.png\n")
    table = simulate_marks(path, tmp_path / "weak", labels={"roi": (2, 3)})
    (case,) = read_cases(table).cases
    assert np.array_equal(mask_of(case), inside)
    assert set(np.unique(marks_of(case))) == {0, 1}
    assert case.ratios[0] == pytest.approx(inside.mean(), abs=1e-4)


def turned(path, values, orientation=None):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(values).save(path, exif=exif)


@pytest.mark.parametrize("orientation", [3, 6])
def test_labels_lie_on_the_picture_as_it_is_shown(tmp_path, orientation):
    stored = np.rot90(INSIDE, 1 if orientation == 6 else 2)
    turned(tmp_path / "image.png", stored * np.uint8(200), orientation)
    turned(tmp_path / "drawn.png", INSIDE.astype(np.uint8))
    turned(tmp_path / "tagged.png", stored.astype(np.uint8), orientation)
    path = tmp_path / "cases.csv"
    for name, told in (("drawn", True), ("tagged", False)):
        path.write_text(f"image,mask,marks\nimage.png,{name}.png,{name}.png\n")
        table = read_cases(path)
        (case,) = table.cases
        assert np.array_equal(mask_of(case), INSIDE)
        assert np.array_equal(marks_of(case), INSIDE)
        assert any("orientation tag" in doubt for doubt in table.doubts) == told
        shown = read_slice(case.image)
        assert np.array_equal(shown > 0, INSIDE)


def test_labels_drawn_on_stored_pixels_are_told_of_the_orientation(tmp_path):
    stored = np.rot90(INSIDE)
    turned(tmp_path / "image.png", stored * np.uint8(200), 6)
    turned(tmp_path / "mask.png", stored.astype(np.uint8))
    path = tmp_path / "cases.csv"
    path.write_text("image,mask\nimage.png,mask.png\n")
    with pytest.raises(TableError, match="EXIF"):
        read_cases(path)


def test_segments_of_a_dicom_segmentation_are_classes_of_a_table(tmp_path):
    image = Path(str(get_testdata_file("CT_small.dcm", download=False)))
    source = dcmread(image)
    pixels = np.zeros((1, source.Rows, source.Columns), np.uint8)
    pixels[0, 10:20, 10:30], pixels[0, 40:45, 10:30] = 1, 2
    segments = [
        SegmentDescription(
            segment_number=number,
            segment_label=words,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Kidney,
            algorithm_type=SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, words in ((1, "left"), (2, "right"))
    ]
    Segmentation(
        source_images=[source],
        pixel_array=pixels,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="none",
        software_versions="1",
        device_serial_number="1",
    ).save_as(tmp_path / "seg.dcm")
    path = tmp_path / "cases.csv"
    path.write_text(f"image,mask,ratio:left,ratio:right\n{image},seg.dcm,,\n")
    (case,) = read_cases(path).cases
    found = case_mask(case, 2)
    assert found is not None
    assert np.array_equal(found, pixels[0])
    path.write_text(f"image,mask,ratio:kidney\n{image},seg.dcm,\n")
    with pytest.raises(TableError, match=r"\[labels\]"):
        read_cases(path)
    table = read_cases(path, labels={"kidney": ("right",)})
    assert np.array_equal(mask_of(table.cases[0]), pixels[0] == 2)
    assert any("label numbers 1 stand for no class" in doubt for doubt in table.doubts)


def test_points_of_a_turned_picture_count_as_it_is_shown_and_are_told(tmp_path):
    turned(tmp_path / "image.png", np.rot90(INSIDE) * np.uint8(200), 6)
    path = tmp_path / "cases.csv"
    path.write_text('image,points\nimage.png,"[[5, 30]]"\n')
    table = read_cases(path)
    assert marks_of(table.cases[0])[5, 30] == 1
    assert any("orientation tag" in doubt for doubt in table.doubts)


def test_a_map_counts_in_a_label_volume_of_fewer_slices_than_its_image(tmp_path):
    nib.Nifti1Image(np.zeros((8, 8, 6), np.uint8), np.eye(4)).to_filename(tmp_path / "image.nii")
    labels = np.zeros((8, 8, 3), np.uint8)
    labels[2:4, 2:4, 2] = 7
    moved = np.eye(4)
    moved[2, 3] = 3
    nib.Nifti1Image(labels, moved).to_filename(tmp_path / "labels.nii")
    path = tmp_path / "cases.csv"
    path.write_text("image,slice,mask\nimage.nii,5,labels.nii\n")
    (case,) = read_cases(path, labels={"roi": (7,)}).cases
    assert np.count_nonzero(mask_of(case)) == 4
