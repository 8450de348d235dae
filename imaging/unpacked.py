"""Files that gzip packed, unpacked for readers that come again for another slice."""

import os
import shutil
import tempfile
import weakref
from functools import lru_cache
from pathlib import Path

from wsseg.imaging.archive import Budget, unpack_gzip
from wsseg.imaging.changed import version_of
from wsseg.imaging.errors import Failure, ReadError
from wsseg.imaging.scan import FileRef

# Tables go through the slices of one file after the other.
KEPT = 4


def unpacked(path: Path) -> Path:
    """A copy of what a gzip file holds, in the folder for temporary files, under its own name.

    The last few are kept while the process runs. Raises ReadError for a file that cannot be
    unpacked, or that would grow beyond all measure.
    """
    return _unpacked(path, (os.getpid(), *version_of(path))).path


class _Copy:
    """A folder with one file, removed when nothing asks for it any more."""

    def __init__(self, packed: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="wsseg-"))
        # A forked process inherits this object, and must not remove what its parent reads.
        weakref.finalize(self, _remove, self._folder, os.getpid())
        (found,) = unpack_gzip(FileRef(packed, packed.name), self._folder, Budget())
        if isinstance(found, Failure):
            raise ReadError(found.reason, found.message)
        self.path = found.path.rename(self._folder / packed.name.removesuffix(packed.suffix))


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


@lru_cache(maxsize=KEPT)
def _unpacked(path: Path, _key: tuple[int, int, int]) -> _Copy:
    return _Copy(path)
