"""Areas to ratios and lengths; what is unknown stays unknown."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.serve.conftest import ThresholdEngine, make_manifest, make_scan, rows, run, write_model
from wsseg.imaging import Geometry
from wsseg.serve.batching import Limits, Segmenter
from wsseg.serve.empty_slices import skip_none
from wsseg.serve.inspection import inspect
from wsseg.serve.measure import MeasuredScan, series_rows, slice_rows, slice_thickness_mm
from wsseg.serve.report import Provenance, SeriesRatio, SliceRatio

PROVENANCE = Provenance("threshold", "abc", "numpy", "fp32", "0")
DARK, BRIGHT, BRIGHTEST = 0, 150, 250


def block(bright: int, brightest: int, shape=(10, 20)) -> np.ndarray:
    """A slice with that many pixels of each class's own, the rest dark, none at an edge."""
    inner = np.full((shape[0] - 2) * (shape[1] - 2), DARK)
    inner[:brightest] = BRIGHTEST
    inner[brightest : brightest + bright] = BRIGHT
    return np.pad(inner.reshape(shape[0] - 2, shape[1] - 2), 1)


def segmented(*slices: np.ndarray, geometry: Geometry | None = None, **fields) -> MeasuredScan:
    scan = make_scan(np.stack(slices), "scan", geometry, **fields)
    segment = Segmenter(ThresholdEngine(), 2, 1, Limits(), keep_labels=False)
    (found,) = segment([inspect(scan, skip_none)])
    assert isinstance(found, MeasuredScan)
    return found


def slices_of(found: MeasuredScan) -> list[SliceRatio]:
    return [row.measured for row in slice_rows(found, make_manifest(), PROVENANCE)]


def series_of(found: MeasuredScan) -> dict[str, SeriesRatio]:
    rows = series_rows(found, make_manifest(), PROVENANCE)
    return {row.measured.ratio_name: row.measured for row in rows}


def stack(positions, pixel_mm=(0.5, 2.0)) -> Geometry:
    return Geometry(pixel_mm=pixel_mm, positions_mm=np.asarray(positions, np.float64))


def test_each_denominator_is_what_its_name_says():
    image, of_class, foreground = slices_of(segmented(block(30, 10)))
    assert (image.numerator_px, image.denominator_px, image.ratio) == (40, 200, 0.2)
    assert (of_class.numerator_px, of_class.denominator_px, of_class.ratio) == (10, 40, 0.25)
    assert (foreground.denominator_px, foreground.denominator) == (40, "foreground")


def test_square_millimetres_are_pixels_times_both_spacings():
    row, *_ = slices_of(segmented(block(30, 10), geometry=Geometry(pixel_mm=(0.5, 0.8))))
    assert row.numerator_mm2 == pytest.approx(40 * 0.5 * 0.8)
    assert row.denominator_mm2 == pytest.approx(200 * 0.5 * 0.8)


def test_without_a_pixel_size_lengths_are_unknown_and_the_ratio_is_not():
    row, *_ = slices_of(segmented(block(30, 10)))
    assert (row.numerator_mm2, row.denominator_mm2, row.ratio) == (None, None, 0.2)


def test_nothing_found_is_a_ratio_of_zero_and_flagged():
    image, of_class, _ = slices_of(segmented(block(0, 0)))
    assert (image.ratio, image.flags, image.status) == (0.0, "EMPTY", "ok_flagged")
    assert of_class.ratio is None
    assert of_class.flags == "EMPTY;EMPTY_DENOMINATOR"


def test_a_slice_without_anything_odd_is_ok():
    assert {(row.flags, row.status) for row in slices_of(segmented(block(30, 10)))} == {("", "ok")}


def test_only_the_class_that_touches_the_edge_is_flagged():
    pixels = block(30, 10)
    pixels[0, 0] = BRIGHT
    bright, brightest, _ = slices_of(segmented(pixels))
    assert (bright.flags, brightest.flags) == ("BORDER", "")


def test_flags_of_the_scan_are_on_every_row():
    found = segmented(block(30, 10), block(0, 0), flags=("TILT", "GAP"))
    assert all(row.flags.startswith("TILT;GAP") for row in slices_of(found))
    assert all(row.flags.startswith("TILT;GAP") for row in series_of(found).values())


def test_an_even_stack_has_the_volume_of_its_areas_times_the_distance():
    found = segmented(*[block(30, 10)] * 4, geometry=stack([0, 3, 6, 9]))
    row = series_of(found)["bright"]
    assert row.numerator_mm3 == pytest.approx(4 * 40 * 1.0 * 3)
    assert row.denominator_mm3 == pytest.approx(4 * 200 * 1.0 * 3)
    assert (row.slices, row.numerator_px, row.denominator_px) == (4, 160, 800)


def test_uneven_slices_count_by_their_thickness():
    found = segmented(block(40, 0), block(20, 0), block(0, 0), geometry=stack([0, 1, 4]))
    row = series_of(found)["bright"]
    thickness = [1, 2, 3]  # midpoints at -0.5, 0.5, 2.5, 5.5
    assert row.numerator_mm3 == pytest.approx(40 * 1 + 20 * 2)
    assert row.volume_ratio == pytest.approx((40 * 1 + 20 * 2) / (200 * sum(thickness)))
    assert row.mean_ratio == pytest.approx((0.2 + 0.1 + 0) / 3)


@pytest.mark.parametrize(
    ("geometry", "flags", "slices"),
    [
        (Geometry(pixel_mm=(1, 1)), (), 3),
        (stack([0, 1, 2], pixel_mm=None), (), 3),
        (stack([0, 1, 3]), ("GAP",), 3),
        (stack([0, 0, 1]), (), 3),
        (stack([5]), (), 1),
    ],
)
def test_a_volume_is_unknown_where_a_length_is_missing(geometry, flags, slices):
    found = segmented(*[block(30, 10)] * slices, geometry=geometry, flags=flags)
    row = series_of(found)["bright"]
    assert (row.numerator_mm3, row.denominator_mm3) == (None, None)
    assert row.volume_ratio == pytest.approx(0.2)


def test_the_mean_leaves_out_slices_without_a_denominator():
    row = series_of(segmented(block(30, 10), block(0, 0)))["brightest in bright"]
    assert (row.mean_ratio, row.volume_ratio) == (0.25, 0.25)
    empty = series_of(segmented(block(0, 0)))["brightest in bright"]
    assert (empty.mean_ratio, empty.volume_ratio) == (None, None)


def test_a_series_is_empty_only_if_all_its_slices_are():
    found = segmented(block(30, 10), block(0, 0))
    assert series_of(found)["bright"].flags == ""
    assert series_of(segmented(block(0, 0), block(0, 0)))["bright"].flags == "EMPTY"


@given(
    gaps=st.lists(st.floats(0.01, 50), min_size=1, max_size=20),
    start=st.floats(-500, 500),
    downwards=st.booleans(),
)
def test_thickness_fills_the_stack_whichever_way_it_is_ordered(gaps, start, downwards):
    positions = start + np.cumsum([0.0, *gaps]) * (-1 if downwards else 1)
    thickness = slice_thickness_mm(stack(positions))
    assert thickness is not None
    extent = abs(positions[-1] - positions[0]) + (gaps[0] + gaps[-1]) / 2
    assert thickness.sum() == pytest.approx(extent)
    assert (thickness > 0).all()


def test_rows_say_where_they_came_from_and_what_measured_them():
    found = segmented(block(1, 1), block(2, 2), modality="CT", study_uid="1.2", series_uid="1.2.3")
    rows = slice_rows(found, make_manifest(), PROVENANCE)
    assert [row.origin.slice for row in rows] == [0, 0, 0, 1, 1, 1]
    assert {row.provenance for row in rows} == {PROVENANCE}
    origin = rows[0].origin
    assert (origin.modality, origin.study_uid, origin.series_uid) == ("CT", "1.2", "1.2.3")


def test_a_missing_slice_makes_every_slice_count_evenly():
    slices = [block(40, 0), block(20, 0), block(0, 0)]
    found = segmented(*slices, geometry=stack([0, 1, 4]), flags=("GAP",))
    assert series_of(found)["bright"].volume_ratio == pytest.approx(60 / 600)


def test_a_slice_whose_mask_has_more_parts_than_were_usual_in_training_is_flagged(tmp_path):
    one, two = block(30, 10), block(30, 10)
    two[-2, -2] = two[-2, -3] = two[-2, -4] = BRIGHT
    for number, slice_ in enumerate((one, two)):
        Image.fromarray(slice_.astype(np.uint8)).save(tmp_path / f"{number}.png")
    known = make_manifest().training.model_copy(update={"parts": {"bright": 1}})
    for training, flagged in ((known, {"1.png"}), (make_manifest().training, set())):
        model = write_model(tmp_path / "model", training=training)
        table = tmp_path / "tables" / "ratios.csv"
        run(model, table, *(tmp_path / f"{n}.png" for n in (0, 1)), overwrite=True)
        of_bright = [row for row in rows(table) if row["numerator"] == "bright"]
        told = {row["source"] for row in of_bright if "MANY_PARTS" in row["flags"].split(";")}
        assert told == flagged
        series = rows(table.with_name("ratios.series.csv"))
        assert {r["source"] for r in series if "MANY_PARTS" in r["flags"].split(";")} == flagged
        assert not any("MANY_PARTS" in r["flags"] for r in rows(table) if r not in of_bright)
