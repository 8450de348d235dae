"""Names that a power cut cannot take back."""

import os
from pathlib import Path

from wsseg.imaging.files import atomic
from wsseg.imaging.publishing import sync


def sync_tree(folder: Path) -> None:
    """Make all files below a folder, and their names, durable."""
    for root, _, names in os.walk(folder):
        for name in names:
            sync(Path(root, name))
        sync(Path(root))


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole, after a power cut too, or as it was before."""
    with atomic(path) as partial:
        partial.write_bytes(content)


def move_durably(source: Path, target: Path) -> None:
    """Rename a file or folder, so that it has one of both names after a power cut."""
    source.rename(target)
    sync(target.parent)
    if source.parent != target.parent:
        sync(source.parent)
