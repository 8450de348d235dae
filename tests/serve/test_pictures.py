"""Label maps and overlays of whole runs."""

import logging
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.serve.conftest import (
    LEVELS,
    RATIOS_PER_SLICE,
    failures,
    label_maps,
    picture,
    rows,
    run,
    write_pictures,
    write_volume,
)
from wsseg.imaging import read


def test_pictures_do_not_change_the_tables(model: Path, scans: Path, tmp_path: Path):
    run(model, tmp_path / "one" / "ratios.csv", scans)
    drawn = {"masks": tmp_path / "masks", "overlays": tmp_path / "overlays"}
    run(model, tmp_path / "other" / "ratios.csv", scans, **drawn)
    for table in (tmp_path / "one").iterdir():
        assert table.read_bytes() == (tmp_path / "other" / table.name).read_bytes()


@pytest.mark.parametrize(
    ("error", "told", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device", "no_space"),
        (OSError(), "OSError", "not_written"),
        (ValueError("too wide"), "ValueError: too wide", "not_written"),
    ],
)
def test_what_cannot_be_drawn_is_told_and_still_measured(
    model: Path, tmp_path: Path, monkeypatch, error: Exception, told: str, reason: str
):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr("wsseg.serve.outputs.write_labels", failing)
    folder = write_pictures(tmp_path / "scans", 2)
    summary = run(model, tmp_path / "ratios.csv", folder, masks=tmp_path / "masks")
    assert len(rows(tmp_path / "ratios.csv")) == 2 * RATIOS_PER_SLICE
    found = failures(tmp_path / "ratios.csv")
    assert [row["reason"] for row in found] == [reason] * 2
    assert all(row["message"].endswith(f"could not be written: {told}") for row in found)
    assert summary.exit_code == 8


def test_an_output_that_fails_costs_the_others_of_its_scan_nothing(
    model: Path, tmp_path: Path, monkeypatch
):
    def failing(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wsseg.serve.outputs.write_labels", failing)
    folder = write_pictures(tmp_path / "scans", 2)
    overlays = tmp_path / "overlays"
    run(model, tmp_path / "ratios.csv", folder, masks=tmp_path / "masks", overlays=overlays)
    assert len(list(overlays.iterdir())) == 2
    told = {row["message"] for row in failures(tmp_path / "ratios.csv")}
    assert told == {
        "measured, but its label maps could not be written: No space left on device",
    }


def test_masks_hold_the_class_of_every_pixel_and_the_later_class_wins(
    model: Path, scans: Path, tmp_path: Path
):
    masks = tmp_path / "masks"
    run(model, tmp_path / "ratios.csv", scans, masks=masks)
    assert len(label_maps(masks)) == 9
    pixels = np.stack([picture(index) for index in range(4)])
    expected = (pixels >= LEVELS[0]).astype(np.uint8) + (pixels >= LEVELS[1])
    with Image.open(masks / "small__003.png") as stored:
        np.testing.assert_array_equal(np.asarray(stored), expected[3])
    volume = np.asanyarray(nib.nifti1.load(masks / "volume.nii.gz").dataobj)
    np.testing.assert_array_equal(volume.transpose(2, 1, 0), expected)


def test_overlays_are_drawn_for_every_slice(model: Path, scans: Path, tmp_path: Path):
    run(model, tmp_path / "ratios.csv", scans, overlays=tmp_path / "overlays")
    assert len(list((tmp_path / "overlays").glob("*.png"))) == 12


def test_a_scan_with_burned_in_text_gets_a_mask_but_no_overlay(
    model: Path, tmp_path: Path, monkeypatch, log
):
    folder = write_pictures(tmp_path / "scans", 2)

    def risky(ref, limits):
        scan = read(ref, limits)
        return replace(scan, flags=("PHI_RISK",)) if "001" in ref.files[0].source else scan

    monkeypatch.setattr("wsseg.serve.pipeline.read", risky)
    with log.at_level(logging.INFO, "wsseg"):
        drawn = {"masks": tmp_path / "masks", "overlays": tmp_path / "overlays"}
        run(model, tmp_path / "ratios.csv", folder, **drawn)
    assert [path.name for path in (tmp_path / "overlays").iterdir()] == ["000-0000.png"]
    assert len(label_maps(tmp_path / "masks")) == 2
    assert [r.event for r in log.records].count("overlay_withheld") == 1


def test_scans_of_one_name_and_several_kinds_or_folders_have_pictures_of_their_own(
    model: Path, tmp_path: Path
):
    for site in ("siteA", "siteB"):
        write_pictures(tmp_path / site, 1)
        write_volume(tmp_path / site / "000.nii.gz", picture(0)[None])
    drawn = {"masks": tmp_path / "masks", "overlays": tmp_path / "overlays"}
    run(model, tmp_path / "ratios.csv", tmp_path / "siteA", tmp_path / "siteB", **drawn)
    assert len({row["source"] for row in rows(tmp_path / "ratios.csv")}) == 4
    assert [len(label_maps(folder)) for folder in drawn.values()] == [4, 4]


@pytest.mark.parametrize("orientation", [3, 6])
def test_masks_and_overlays_of_a_turned_picture_lie_on_it_as_it_is_shown(
    model: Path, tmp_path: Path, orientation: int
):
    shown = picture(1).astype(np.uint8)
    stored = np.rot90(shown, 1 if orientation == 6 else 2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "scans").mkdir()
    Image.fromarray(stored).save(tmp_path / "scans" / "a.png", exif=exif)
    masks, overlays = tmp_path / "masks", tmp_path / "overlays"
    run(model, tmp_path / "ratios.csv", tmp_path / "scans", masks=masks, overlays=overlays)
    assert all("EXIF_ORIENTATION" in row["flags"] for row in rows(tmp_path / "ratios.csv"))
    (mask,) = label_maps(masks)
    with Image.open(mask) as labels:
        assert not labels.getexif()
        assert np.array_equal(np.asarray(labels) > 0, shown >= LEVELS[0])
    (drawing,) = overlays.iterdir()
    with Image.open(drawing) as drawn:
        assert drawn.size == shown.shape[::-1]
