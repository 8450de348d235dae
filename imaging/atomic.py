"""Files and folders that appear whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a scratch path beside `path`; it takes its place only if the block succeeds.

    The scratch name keeps its suffixes, because writers choose the format by them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tmp-") as scratch:
        partial = Path(scratch, path.name)
        yield partial
        partial.replace(path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty scratch folder that replaces the folder `path` only if the block succeeds.

    A folder cannot be replaced in one step on every system: the old one is moved aside first and
    put back if the new one cannot take its place.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Outside the scratch folder, whose clean-up would take it along if the exchange broke off.
    previous = path.with_name(f".previous-{path.name}")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tmp-") as scratch:
        partial = Path(scratch, path.name)
        partial.mkdir()
        yield partial
        shutil.rmtree(previous, ignore_errors=True)
        try:
            if path.exists():
                path.replace(previous)
            partial.replace(path)
        except BaseException:
            if previous.exists() and not path.exists():
                previous.replace(path)
            raise
        shutil.rmtree(previous, ignore_errors=True)
