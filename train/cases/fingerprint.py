"""Whether the files of a table are still those that a run began with."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import seen_by
from wsseg.train.cases.schema import Case

READERS = 4
SHOWN = 5
# The pixels of some formats lie in a second file of the same stem.
PARTNERS = {".hdr": (".img", ".img.gz"), ".mhd": (".raw", ".zraw")}

Prints = dict[str, list[int | str]]
"""By line and column of the table: size in bytes, time of change in ns, sha256 of the content."""


def fingerprints(cases: Sequence[Case]) -> Prints:
    """Of every file that is trained on or judged by.

    A file is read only where the check of the table did not read it as a whole, and once for all
    cases of it.
    """
    places = _places(cases)
    known = {
        path: case.contents.digests[column]
        for case in cases
        for column, path in case.files.items()
        if column in case.contents.digests
    }

    def found(path: Path) -> list[int | str]:
        digest = known.get(path)
        if digest is not None and digest.version == seen_by(path.stat()):
            return [*digest.version, digest.sha256.hex()]
        return _print(path)

    paths = list(dict.fromkeys(places.values()))
    with ThreadPoolExecutor(READERS) as pool:
        prints = dict(zip(paths, pool.map(found, paths), strict=True))
    return {place: prints[path] for place, path in places.items()}


def require_unchanged(before: Mapping[str, Any], cases: Sequence[Case]) -> None:
    """Raise WssegError, with lines of the table, if files differ from what a run began with.

    A file of the same size and time is taken for the same; any other is read, and may be a copy.
    """
    changed = [
        place
        for place, path in _places(cases).items()
        if place in before and not _is_same(path, before[place])
    ]
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise WssegError(
            f"files of the table have changed since the run began: {', '.join(changed[:SHOWN])}"
            f"{more}: restore them, or train again with another --out"
        )


def _places(cases: Sequence[Case]) -> dict[str, Path]:
    """By line and column: without a name, which may be a patient's."""
    places: dict[str, Path] = {}
    for case in cases:
        if case.split == "test":
            continue
        for column, path in case.files.items():
            for number, file in enumerate(_files(path)):
                places[f"{column} of line {case.row}{' (pixels)' if number else ''}"] = file
    return places


def _files(path: Path) -> list[Path]:
    partners = [path.with_suffix(suffix) for suffix in PARTNERS.get(path.suffix.lower(), ())]
    return [path, *(partner for partner in partners if partner.is_file())]


def _print(path: Path) -> list[int | str]:
    about = path.stat()
    with path.open("rb") as file:
        return [about.st_size, about.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest()]


def _is_same(path: Path, before: Sequence[int | str]) -> bool:
    about = path.stat()
    if [about.st_size, about.st_mtime_ns] == list(before[:2]):
        return True
    return about.st_size == before[0] and _print(path)[2] == before[2]
