"""Files that a table names as another system writes paths: back-slashes, accents in two forms."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path


def named_file(folder: Path, text: str) -> Path:
    """The file that `text` names, relative to `folder`; as written where there is none.

    A back-slash separates folders where no file has it in its name. An accent may be one character
    with its letter in the table and a second one on the disk, or the other way round, in any part
    of the path.
    """
    path = folder / text
    if "\\" not in text and text.isascii():
        # No other way to write it: nothing needs to be looked up.
        return path
    if path.exists():
        return path
    for way in (text.replace("\\", "/"), text):
        found = _on_disk(folder, Path(way))
        if found is not None:
            return found
    return path


def name_key(text: str) -> str:
    """What two ways of writing one path have in common."""
    return unicodedata.normalize("NFC", text.replace("\\", "/"))


def _on_disk(folder: Path, path: Path) -> Path | None:
    place = Path(path.anchor) if path.anchor else folder
    for part in path.parts[1:] if path.anchor else path.parts:
        following = place / part
        if not following.exists():
            alike = next(_alike(place, part), None)
            if alike is None:
                return None
            following = alike
        place = following
    return place


def _alike(folder: Path, name: str) -> Iterator[Path]:
    wanted = unicodedata.normalize("NFC", name)
    if folder.is_dir():
        for entry in folder.iterdir():
            if unicodedata.normalize("NFC", entry.name) == wanted:
                yield entry
