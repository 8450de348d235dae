"""A DICOMweb server in this process, of the files of a folder, which fails as a test asks it to."""

import json
import re
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pydicom

BOUNDARY = "a-boundary"
Fault = Callable[["Handler"], bool]
"""Answers a request in place of the server; False leaves it to the server."""


@dataclass
class Archive:
    """The files STUDY/SERIES/INSTANCE.dcm of a folder, by DICOMweb.

    faults: asked in turn before each request. asked: methods and paths of the requests so far, with
    the queries. credentials: what each request was authorised by. stored: what was sent.
    """

    folder: Path
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    credentials: list[str | None] = field(default_factory=list)
    stored: list[bytes] = field(default_factory=list)
    url: str = ""

    @property
    def input(self) -> Path:
        """As a command line names it."""
        return Path(f"dicomweb:{self.url}")

    @property
    def retrieved(self) -> list[str]:
        """The instances that were asked for, in order and with repetitions."""
        return [path for path in self.asked if re.search(r"/instances/[^?]", path)]


class Handler(BaseHTTPRequestHandler):
    """Answers with what the folder of the server's archive has."""

    protocol_version = "HTTP/1.1"
    archive: Archive

    def do_GET(self) -> None:
        if not self._faulty():
            parts = urlsplit(self.path).path.strip("/").split("/")[1:]
            if parts[-2:-1] == ["instances"]:
                place = "/".join((parts[1], parts[3], parts[5]))
                self.answer(200, self.instance(place), self.kind)
            else:
                found = self._instances(*parts[1:4:2]) if "instances" in parts else self._series()
                offset = int(parse_qs(urlsplit(self.path).query)["offset"][0])
                self.answer(200, json.dumps(found[offset:]).encode(), "application/dicom+json")

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._faulty():
            self.archive.stored.append(content)
            self.answer(200, b"{}", "application/dicom+json; charset=utf-8")

    @property
    def kind(self) -> str:
        return f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"'

    def instance(self, place: str) -> bytes:
        content = (self.archive.folder / f"{place}.dcm").read_bytes()
        head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n"
        return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()

    def answer(self, status: int, content: bytes = b"", kind: str = "", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _faulty(self) -> bool:
        self.archive.asked.append(f"{self.command} {self.path}")
        self.archive.credentials.append(self.headers["Authorization"])
        return any(fault(self) for fault in self.archive.faults)

    def _series(self) -> list[dict[str, object]]:
        folders = {path.parent for path in self.archive.folder.rglob("*.dcm")}
        return [
            {"0020000D": _uid(path.parent.name), "0020000E": _uid(path.name)}
            for path in sorted(folders, reverse=True)
        ]

    def _instances(self, study: str, series: str) -> list[dict[str, object]]:
        files = sorted((self.archive.folder / study / series).iterdir(), reverse=True)
        return [{"00080018": _uid(path.stem)} for path in files]


@contextmanager
def serving(folder: Path, *faults: Fault, certificate: Path | None = None) -> Iterator[Archive]:
    """Serve a folder on the loopback until the end of the block; certificate: by TLS."""
    archive = Archive(folder, list(faults))
    handler = type("OwnHandler", (Handler,), {"archive": archive})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        archive.url = (
            f"http{'s' if certificate else ''}://127.0.0.1:{server.server_address[1]}/dicom-web"
        )
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield archive
        finally:
            server.shutdown()
            thread.join()


def times(count: int, pattern: str, fault: Callable[[Handler], object]) -> Fault:
    """A fault of the first requests whose path has a pattern."""
    left = [count]

    def answered(handler: Handler) -> bool:
        if not left[0] or not re.search(pattern, handler.path):
            return False
        left[0] -= 1
        fault(handler)
        return True

    return answered


def own_certificate(path: Path) -> Path:
    """Write a certificate for the loopback, and its key, to one file."""
    subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "2", *subject,
         "-keyout", path, "-out", path.with_suffix(".crt")],
        check=True, capture_output=True,
    )  # fmt: skip
    with path.open("ab") as stream:
        stream.write(path.with_suffix(".crt").read_bytes())
    return path


def by_uids(folder: Path, written: Path) -> Path:
    """Move the DICOM files of a folder to STUDY/SERIES/INSTANCE.dcm in another."""
    for path in sorted(written.rglob("*.dcm")):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        own = folder / header.StudyInstanceUID / header.SeriesInstanceUID
        own.mkdir(parents=True, exist_ok=True)
        path.rename(own / f"{header.SOPInstanceUID}.dcm")
    return folder


def _uid(value: str) -> dict[str, object]:
    return {"vr": "UI", "Value": [value]}
