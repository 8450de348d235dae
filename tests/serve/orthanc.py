"""Runs a real Orthanc with DICOMweb in a network of its own, and commands in that network.

Orthanc 1.10 listens on every address. In a network namespace these are its loopback alone, so that
nothing outside reaches it, and its ports are free in every run.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.watch import LAUNCHER

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
AET, DICOM_PORT, HTTP_PORT = "ORTHANC", 4242, 8042
USER, PASSWORD = "reader", "a secret of the archive"
NODE_AET, NODE_PORT = "WSSEG", 11112
STARTS_SECONDS = 30.0
# One request: the method, the path, the content type and the body come as arguments and stdin.
REQUEST = f"""
import base64, sys, urllib.error, urllib.request
method, path, kind = sys.argv[1:]
secret = base64.b64encode({f"{USER}:{PASSWORD}".encode()!r}).decode()
request = urllib.request.Request(
    "http://127.0.0.1:{HTTP_PORT}" + path,
    data=sys.stdin.buffer.read() or None,
    headers={{"Authorization": "Basic " + secret, "Content-Type": kind}},
    method=method,
)
try:
    sys.stdout.buffer.write(urllib.request.urlopen(request, timeout=60).read())
except urllib.error.URLError as error:
    sys.exit(str(error))
"""


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc. pid: of the process whose network commands join."""

    pid: int
    url: str = f"http://127.0.0.1:{HTTP_PORT}/dicom-web"

    def command(self, *command: object) -> list[str]:
        """A command line that runs in Orthanc's network."""
        enter = ("nsenter", f"--target={self.pid}", "--user", "--net", "--preserve-credentials")
        return [*enter, *map(str, command)]

    def run(
        self, *command: object, code: int = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in Orthanc's network to its exit code."""
        done = subprocess.run(
            self.command(*command),
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != code:
            raise AssertionError(f"{command[0]} ended with {done.returncode}: {done.stderr}")
        return done

    def ask(
        self, path: str, method: str = "GET", body: bytes = b"", kind: str = "application/json"
    ) -> Any:
        """What the JSON of an answer of Orthanc's own interface says; None for an empty one."""
        content = self.answer(path, method, body, kind)
        return json.loads(content) if content.strip() else None

    def answer(
        self, path: str, method: str = "GET", body: bytes = b"", kind: str = "application/json"
    ) -> bytes:
        """The answer of Orthanc's own interface. Raises OSError where it has none."""
        done = subprocess.run(
            self.command(sys.executable, "-I", "-S", "-c", REQUEST, method, path, kind),
            input=body,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise OSError(f"{method} {path}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def add(self, *files: Path) -> list[str]:
        """Store DICOM files; returns Orthanc's own name of each."""
        return [
            self.ask("/instances", "POST", file.read_bytes(), "application/dicom")["ID"]
            for file in files
        ]

    def clear(self) -> None:
        """Remove all that is stored."""
        for patient in self.ask("/patients"):
            self.ask(f"/patients/{patient}", "DELETE")


@contextmanager
def orthanc_in(folder: Path) -> Iterator[Orthanc]:
    """Start an Orthanc that keeps its files in `folder`, and stop it at the end.

    Raises AssertionError, which says what is missing, where it cannot be started.
    """
    for program, package in (("Orthanc", "orthanc"), ("unshare", "util-linux")):
        if shutil.which(program) is None:
            raise AssertionError(f"{program} is missing: apt-get install {package}")
    if not PLUGIN.is_file():
        raise AssertionError(f"{PLUGIN} is missing: apt-get install orthanc-dicomweb")
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "orthanc.json"
    settings.write_text(json.dumps(_settings(folder)), encoding="utf-8")
    log = folder / "log"
    own = ("unshare", "--map-root-user", "--net", "--uts", sys.executable, "-c", LAUNCHER)
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            [*own, "Orthanc", settings],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield _started(process, log)
        finally:
            process.kill()  # it would take three seconds to end, and nothing is kept


def _settings(folder: Path) -> dict[str, Any]:
    return {
        "Name": "archive",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": HTTP_PORT,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomAet": AET,
        "DicomPort": DICOM_PORT,
        "DicomModalities": {NODE_AET: [NODE_AET, "127.0.0.1", NODE_PORT]},
        "StableAge": 1,
    }


def _started(process: subprocess.Popen[bytes], log: Path) -> Orthanc:
    """The Orthanc of a process that has just been started, once it answers."""
    orthanc = Orthanc(process.pid)
    until = time.monotonic() + STARTS_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            orthanc.ask("/system")
        except OSError:
            time.sleep(0.05)
        else:
            return orthanc
    said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise AssertionError(
        "Orthanc did not start in a network of its own (as a user without rights, unshare needs "
        f"kernel.unprivileged_userns_clone=1): {said}"
    )
