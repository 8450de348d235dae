"""Label maps have names that fit every system, clash with no other and tell no one's name."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsseg.imaging import FileRef, Geometry, Scan, ScanRef, SliceId, safe_name


def named(kind, source, *, uid="", part=0, volume=None, slices=1, ending=""):
    file = FileRef(Path("x"), source)
    ref = ScanRef(kind, (file,), part=part, volume=volume, name_ending=ending)
    pixels = np.zeros((slices, 1, 1), np.float32)
    return Scan(pixels, Geometry(), (SliceId(source),) * slices, ref, series_uid=uid)


@pytest.mark.parametrize(
    ("scan", "name"),
    [
        (named("dicom", "Doe^Jane/1.dcm", uid="1.2.840.1"), "1.2.840.1"),
        (named("dicom", "Doe^Jane/1.dcm", uid="1.2.840.1", part=2), "1.2.840.1-part2"),
        (named("dicom", "1.dcm", uid="1.2", part=1, ending="-0a1b2c3d"), "1.2-0a1b2c3d-part1"),
        (named("picture", "case-001.png"), "case-001"),
        (named("picture", "ward/day_1/case.png"), "ward__day_1__case"),
        (named("picture", "case.jpg"), "case.jpg"),
        (named("picture", "001.png"), "001"),
        (named("picture", "stack.tif", slices=3), "stack"),
        (named("volume", "scans.zip/case.nii.gz"), "scans.zip__case"),
        (named("volume", "case.nii"), "case.nii"),
        (named("volume", "case.nii.gz", volume=3), "case-t003"),
    ],
)
def test_plain_names_stay_readable(scan, name):
    assert safe_name(scan) == name


@pytest.mark.parametrize(
    "uid", ["", "123", "../../x", "1.2/3", "1." * 40 + "1", "1..2", ".", "CON", "1\n"]
)
def test_a_series_uid_that_is_none_becomes_a_hash(uid):
    name = safe_name(named("dicom", "Doe^Jane/1.dcm", uid=uid))
    assert len(name) == 16
    assert set(name) <= set("0123456789abcdef")


def test_scans_without_a_series_uid_do_not_share_a_name():
    assert safe_name(named("dicom", "a.dcm")) != safe_name(named("dicom", "b.dcm"))


SOURCES = st.text(
    st.sampled_from("aB1-_./\\ é\n:CONnul") | st.characters(codec="utf-8"), min_size=1, max_size=200
)
ENDINGS = st.sampled_from(
    ["", ".png", ".jpg", ".nii", ".nii.gz", ".PNG", "-t003", "__a", ".png.jpg"]
)


@given(source=SOURCES, ending=ENDINGS, kind=st.sampled_from(["picture", "volume"]))
def test_every_source_gives_a_name_safe_on_every_system(source, ending, kind):
    name = safe_name(named(kind, source + ending))
    assert 0 < len(name) <= 140
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert name[0] not in ".-"
    assert name.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt1"}


@pytest.mark.parametrize(
    "sources",
    [
        ("a.png", "a.jpg", "a.jpeg", "a.tif", "a.jpg.png", "a", "A/a.png"),
        ("a/b.png", "a__b.png", "a_/b.png", "a/_b.png", "a_b.png", "a b.png", "a-b.png"),
        ("x" * 200 + "1.png", "x" * 200 + "2.png"),
        ("con.png", "con.jpg", "CON.v1.png", "é.png", "ü.png", "..png", ".png"),
    ],
)
def test_different_sources_have_different_names(sources):
    names = [safe_name(named("picture", source)) for source in sources]
    assert len(set(names)) == len(names)


def test_a_file_named_like_a_time_volume_does_not_take_its_name():
    volume = safe_name(named("volume", "a.nii.gz", volume=3))
    assert safe_name(named("volume", "a-t003.nii.gz")) != volume


def test_pictures_of_scans_of_one_name_stay_apart():
    scans = [named("picture", "x.png"), named("volume", "x.nii.gz"), named("volume", "x.nii")]
    names = [safe_name(scan, suffix=".png") for scan in scans]
    assert names == ["x", "x.nii.gz", "x.nii"]


@pytest.mark.parametrize(
    "name", ["1.2.840.1", "1.2.840.1-part2", "1.2-0a1b2c3d", "0123456789abcdef-part1"]
)
def test_a_volume_called_like_a_series_does_not_take_its_label_map(name):
    assert safe_name(named("volume", f"{name}.nii.gz")) != name
