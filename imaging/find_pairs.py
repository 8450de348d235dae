"""Volumes kept in two files: which header the voxels in a file belong to."""

import os
import re
from functools import lru_cache
from pathlib import Path

from wsseg.imaging import meta_image, nrrd_header
from wsseg.imaging.errors import ReadError
from wsseg.imaging.volume_header import TEXT_HEADER_BYTES, beside

_ANALYZE = re.compile(r"(?P<stem>.+)\.img(\.gz)?$", re.IGNORECASE)
_TEXT_HEADERS = {".mhd": meta_image.data_name, ".nhdr": nrrd_header.data_name}
_FOLDERS = 64


def header_beside(path: Path) -> Path | None:
    """The .hdr, .mhd or .nhdr file whose voxels the file `path` holds, if it is such a file."""
    if found := _ANALYZE.match(path.name):
        names = [f"{found['stem']}.{hdr}{gz}" for hdr in ("hdr", "HDR") for gz in ("", ".gz")]
        headers = (path.with_name(name) for name in names)
        if header := next((header for header in headers if header.is_file()), None):
            return header
    if path.suffix.lower() in ("", ".dcm", *_TEXT_HEADERS):
        return None  # most files, and none that a header's writer would name
    try:
        changed = path.parent.stat().st_mtime_ns
    except OSError:
        return None
    return _named_by_headers(path.parent, changed).get(path.name)


@lru_cache(maxsize=_FOLDERS)
def _named_by_headers(folder: Path, _changed: int) -> dict[str, Path]:
    """Files of a folder that its text headers name for their voxels, with those headers."""
    found = {}
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if Path(e.name).suffix.lower() in _TEXT_HEADERS)
    for header in (folder / name for name in names):
        if not header.is_file():
            continue
        try:
            with header.open("rb") as file:
                named = _TEXT_HEADERS[header.suffix.lower()](file.read(TEXT_HEADER_BYTES))
            if named:
                found[beside(header, named, header.name).name] = header
        except (OSError, ReadError):
            continue  # told where the header itself is read
    return found
