"""DICOM results stored on a DICOMweb server, beside the files that were written."""

from contextlib import closing
from pathlib import Path
from typing import Any

from pydicom import dcmread

from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import noted_so_far
from wsseg.serve.dicomweb.server import Server
from wsseg.serve.dicomweb.session import ATTEMPTS, ServerError, Session
from wsseg.serve.measure import MeasuredScan
from wsseg.serve.outputs import Output

SUFFIX = ".dcm"


def stored_results(server: Server) -> Output:
    """The DICOM files that the earlier outputs of a scan have written, stored on a server.

    What is not stored is told as an output that was not written, and costs neither the rows nor
    the file.
    """
    unreachable = False

    def write(_measured: MeasuredScan, _folder: Path, _made: dict[str, Any]) -> None:
        nonlocal unreachable
        failed: dict[str, ServerError] = {}
        # Once is enough while the server cannot be reached.
        attempts = 1 if unreachable else ATTEMPTS
        with closing(Session(server, attempts=attempts)) as session:
            for path in (path for path in noted_so_far() if path.suffix == SUFFIX):
                try:
                    session.store(dcmread(path))
                except ServerError as error:
                    failed[path.name] = error
        unreachable = any(error.transient for error in failed.values())
        if failed:
            told = "; ".join(f"{name}: {error}" for name, error in failed.items())
            raise WssegError(f"{told}. The files are there: store them by other means, or --resume")

    return Output("copies on the server", Path(), write)
