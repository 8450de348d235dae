"""Files are found under the names that other systems write."""

import unicodedata
from pathlib import Path

import pytest

from wsseg.imaging import named_file
from wsseg.imaging.files import is_there, name_key

COMPOSED, APART = (unicodedata.normalize(form, "Ménière") for form in ("NFC", "NFD"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file in a folder whose names have their accents apart, as macOS stores them."""
    (tmp_path / APART).mkdir()
    (tmp_path / APART / f"{APART}.png").touch()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.png").touch()
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        f"{COMPOSED}/{COMPOSED}.png",
        f"{APART}/{COMPOSED}.png",
        f"{COMPOSED}\\{APART}.png",
        f".\\plain\\..\\{COMPOSED}\\{COMPOSED}.png",
    ],
)
def test_accents_and_back_slashes_are_told_apart_from_nothing(folder: Path, text: str):
    assert named_file(folder, text).samefile(folder / APART / f"{APART}.png")


def test_a_name_that_is_there_as_written_wins(folder: Path):
    (folder / "plain\\a.png").touch()
    assert named_file(folder, "plain\\a.png").name == "plain\\a.png"
    assert named_file(folder, "plain/a.png") == folder / "plain/a.png"


def test_a_file_that_is_not_there_keeps_its_name(folder: Path):
    assert named_file(folder, "plain\\b.png") == folder / "plain\\b.png"
    assert named_file(folder, f"{COMPOSED}/b.png") == folder / f"{COMPOSED}/b.png"


def test_one_path_has_one_key():
    assert name_key(f"x\\{APART}.png") == name_key(f"x/{COMPOSED}.png") != name_key("x/y.png")


def test_what_can_be_no_name_keeps_it(folder: Path):
    for text in ("ä" * 200, "a\\" + "b" * 300, "é\0.png"):
        assert named_file(folder, text) == folder / text
        assert not is_there(folder / text)
