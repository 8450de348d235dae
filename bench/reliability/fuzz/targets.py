"""What is fuzzed: each target takes bytes, and may raise nothing.

A target imports what it tests when it is made, so that coverage is recorded in it.
"""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Target = Callable[[bytes], object]

NAMES = (
    *("IM0001", "a.dcm", "a.nii", "a.nii.gz", "a.hdr", "a.mgz", "a.nrrd", "a.mha", "a.png"),
    *("a.jpg", "a.tif", "a.bmp", "a.zip", "a.tar", "a.tgz", "a.bin", "a.gif", "a.webp", "a.mgh"),
)
"""Names of a file; the first byte of an input chooses one."""
DECODER_SECONDS = 5.0
MOST_DECODED = 1 << 26
"""A scan of more bytes is legitimate, and only slow."""
TABLES = ("cases.csv", "cases.xlsx")

_numbers = itertools.count()


def finding() -> Target:
    """Finding scans in a folder with one file."""
    from wsseg.imaging.discovery import find

    def target(data: bytes) -> None:
        with _folder() as folder:
            file = _named(folder, data)
            found = list(find([file.parent], scratch=folder))
            if not found:
                raise AssertionError("a file ended in no scan and in no failure")

    return target


def decoding() -> Target:
    """Reading the scans of one file."""
    from wsseg.imaging.discovery import find

    def target(data: bytes) -> None:
        with _folder() as folder:
            _read_all(find([_named(folder, data).parent], scratch=folder))

    return target


def grouping() -> Target:
    """Headers of some DICOM files as scans, and reading these."""
    from bench.reliability.fuzz.dataset import dicom_files
    from wsseg.imaging.discovery import find

    def target(data: bytes) -> None:
        with _folder() as folder:
            for index, content in enumerate(dicom_files(data)):
                (folder / "in" / f"{index}").write_bytes(content)
            _read_all(find([folder / "in"], scratch=folder))

    return target


def cases() -> Target:
    """A table of cases, beside the files that its rows may name."""
    from bench.reliability.fuzz.seeds import write_case_files
    from wsseg.imaging.errors import WssegError
    from wsseg.train.cases.table import read_cases

    files = write_case_files(Path(tempfile.mkdtemp(prefix="fuzz-cases-")))

    def target(data: bytes) -> None:
        table = files / TABLES[data[:2] == b"PK"]
        table.write_bytes(data)
        with suppress(WssegError):
            read_cases(table)

    return target


def model() -> Target:
    """The `model.json` of a model folder."""
    from wsseg.imaging.errors import WssegError
    from wsseg.serve.manifest import FILE_NAME, engine_bytes, load_model

    def target(data: bytes) -> None:
        with _folder() as folder:
            (folder / "in" / FILE_NAME).write_bytes(data)
            with suppress(WssegError):
                manifest, _ = load_model(folder / "in")
                for entry in manifest.engines:
                    with suppress(WssegError):
                        engine_bytes(folder / "in", entry)

    return target


def known() -> Target:
    """A table of recorded ratios."""
    from bench.reliability.fuzz.seeds import manifest
    from wsseg.imaging.errors import WssegError
    from wsseg.serve.known_ratios import read_known

    described = manifest()

    def target(data: bytes) -> None:
        with _folder() as folder:
            table = folder / "in" / TABLES[data[:2] == b"PK"]
            table.write_bytes(data)
            with suppress(WssegError):
                read_known(table, described)

    return target


def node() -> Target:
    """What a peer sends to a DICOM node."""
    from bench.reliability.fuzz.peer import Peer

    return Peer().send


TARGETS: dict[str, Callable[[], Target]] = {
    "finding": finding,
    "grouping": grouping,
    "decoding": decoding,
    "cases": cases,
    "known": known,
    "model": model,
    "node": node,
}


def _read_all(found: Iterator[object]) -> None:
    import numpy as np

    from wsseg.imaging.errors import Failure, ReadError
    from wsseg.imaging.limits import ReadLimits
    from wsseg.imaging.reading import read

    limits = ReadLimits(seconds=DECODER_SECONDS)

    for ref in found:
        if isinstance(ref, Failure) or ref.decoded_bytes > MOST_DECODED:  # type: ignore[attr-defined]
            continue
        with suppress(ReadError):
            scan = read(ref, limits)  # type: ignore[arg-type]
            if len(scan.pixels) != len(scan.slices) or not np.isfinite(scan.pixels).all():
                raise AssertionError("pixels that are not finite, or not of these slices")


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder of its own for each input: results are remembered by path, size and time."""
    folder = Path(tempfile.gettempdir(), f"fuzz-{next(_numbers)}")
    (folder / "in").mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _named(folder: Path, data: bytes) -> Path:
    """The file of an input, the rest of which is its content; a pair is divided by a mark."""
    from bench.reliability.fuzz.seeds import PAIR

    name, content = NAMES[data[0] % len(NAMES) if data else 0], data[1:]
    path = folder / "in" / name
    first, found, second = content.partition(PAIR)
    path.write_bytes(first if found else content)
    if found:
        path.with_suffix(".img").write_bytes(second)
    return path
