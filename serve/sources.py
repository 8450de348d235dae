"""Where the scans of a run come from: files and folders, or a DICOMweb server."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from wsseg.imaging.discovery import find
from wsseg.imaging.errors import Failure, WssegError, missing_packages
from wsseg.imaging.scan import ScanRef
from wsseg.serve.dicomweb.server import named_server, parse_query, store_server
from wsseg.serve.journal import Journal
from wsseg.serve.options import InferOptions
from wsseg.serve.outputs import Output
from wsseg.serve.pipeline import Outcome
from wsseg.serve.scan_rows import ScanRows

MIB = 1 << 20


class Source(Protocol):
    """Scans in a fixed order."""

    def refs(
        self, journal: Journal | None = None
    ) -> Generator[ScanRef | Failure | ScanRows, None, None]:
        """Scans, files that gave none, and the rows of scans that `journal` has."""
        ...

    def followed(
        self, outcomes: Iterable[Outcome], journal: Journal | None = None
    ) -> Iterator[Outcome]:
        """Pass the outcomes of `refs` on, in their order, and hear so which scans are done."""
        ...


class Files:
    """Scans that were found in files and folders."""

    def __init__(self, found: Iterable[ScanRef | Failure]) -> None:
        self._found = found

    def refs(
        self, journal: Journal | None = None
    ) -> Generator[ScanRef | Failure | ScanRows, None, None]:
        """The scans."""
        yield from self._found

    def followed(
        self, outcomes: Iterable[Outcome], journal: Journal | None = None
    ) -> Iterator[Outcome]:
        """The outcomes; files stay where they are."""
        return iter(outcomes)


def open_source(
    inputs: Sequence[Path], options: InferOptions, scratch: Path, salt: bytes | None = None
) -> Source:
    """The source that `inputs` name: `dicomweb:https://host/path`, or files and folders.

    salt: under which the names of files are hashed; what a server has is named by UIDs.

    Raises WssegError for a path that does not exist, a server that cannot be asked, and options
    that do not belong to the source.
    """
    server = named_server(inputs)
    if server is None:
        if options.query is not None:
            raise WssegError("--query belongs to a server, dicomweb:https://HOST/PATH, as input")
        return Files(find(inputs, scratch=scratch, limits=options.limits, salt=salt))
    if options.query is None:
        raise WssegError(
            "--query is missing: name which series of the server to measure, such as "
            "'StudyDate=20260101-20260131&Modality=CT'"
        )
    for name, given in (("--known-ratios", options.known_ratios), ("--shard", options.shard)):
        if given:
            raise WssegError(
                f"{name} needs all scans at once, and a server gives them series by series: fetch "
                "them into a folder, or divide them by --query"
            )
    query = parse_query(options.query)
    with missing_packages():
        from wsseg.serve.dicomweb.source import ServerSource
    return ServerSource(
        server,
        query,
        scratch,
        most=options.series_mb * MIB,
        reuse=options.identify is None,  # an identifier is in a file
        limits=options.limits,
    )


def stores(options: InferOptions, inputs: Sequence[Path]) -> tuple[Output, ...]:
    """The output that stores DICOM results on a server, see `stored_results`, if it is asked for.

    It comes after those whose files it stores.
    """
    if options.store is None:
        return ()
    server = store_server(options.store, named_server(inputs))
    with missing_packages():
        from wsseg.serve.dicomweb.store import stored_results
    return (stored_results(server),)
