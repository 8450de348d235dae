"""A peer of a DICOM node that sends whatever it is told to, and what a sound one sends."""

import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from tests.imaging.conftest import _write_dicom
from wsseg.serve.node.arrivals import Arrivals
from wsseg.serve.node.metrics import Metrics
from wsseg.serve.node.options import NodeOptions
from wsseg.serve.node.server import VERIFICATION, Receiver
from wsseg.serve.node.spool import Limits, Spool

SECONDS = 5.0
IDLE_SECONDS = 0.5
ECHO_EVERY = 50
_HEAD = struct.Struct(">BxI")
_ACCEPTED, _DATA, _ECHOED = 2, 4, b"\0\0\0\x09\2\0\0\0\0\0"
"""Types of PDUs; the last element of a C-ECHO response: status 0."""


class Peer:
    """A node that listens, and a peer that checks what becomes of it."""

    def __init__(self) -> None:
        spool = self.spool = Spool(Path(tempfile.mkdtemp(prefix="fuzz-spool-")), Limits(1 << 28, 0))
        spool.open()
        options = NodeOptions(port=0, spool=spool.root, idle_seconds=IDLE_SECONDS)
        self._receiver = Receiver(options, spool, Arrivals(60, 60), Metrics())
        self.port = self._receiver.start()
        self._raised: list[BaseException] = []
        threading.excepthook = lambda told: self._raised.append(
            told.exc_value or RuntimeError("a thread ended")
        )
        self._sent = 0
        self._echo = list(_pdus(_recorded(self.port, _echo)))
        self._request = self._echo[0]

    def send(self, data: bytes) -> None:
        """Send one input; raises what a thread of the node raised, or for one that hangs.

        The first byte chooses: 0 the rest is all that is sent, 1 it follows a sound request of an
        association, 2 it is the fragments of messages in sound PDUs after such a request.
        """
        kind, rest = (data[0] % 3, data[1:]) if data else (0, b"")
        stream = _fragments(rest) if kind == 2 else rest
        self._talk(*([self._request] if kind else []), stream)
        self._sent += 1
        if self._sent % ECHO_EVERY == 0:
            self.check_answers()
        deadline = time.monotonic() + SECONDS
        while self._receiver.associations and time.monotonic() < deadline:
            time.sleep(0.001)
        if self._receiver.associations:
            raise AssertionError("an association is left open")
        if self._raised:
            raise self._raised.pop()

    def check_answers(self) -> None:
        """Raise AssertionError unless the node answers a C-ECHO."""
        if _ECHOED not in self._talk(*self._echo):
            raise AssertionError("the node does not answer any more")

    def close(self) -> None:
        """Stop the node."""
        self._receiver.stop()
        shutil.rmtree(self.spool.root)
        threading.excepthook = threading.__excepthook__

    def _talk(self, *parts: bytes) -> bytes:
        """What the node answers until it closes the connection; it answers each part but the last.

        A part that does not wait comes before its time.
        """
        with socket.create_connection(("127.0.0.1", self.port), SECONDS) as stream:
            try:
                answer = b""
                for part in parts[:-1]:
                    stream.sendall(part)
                    answer += stream.recv(1 << 16)
                stream.sendall(parts[-1])
                stream.shutdown(socket.SHUT_WR)
                while more := stream.recv(1 << 16):
                    answer += more
            except TimeoutError as error:
                raise AssertionError("the node keeps a peer that has closed") from error
            except OSError:  # it closed first
                pass
            return answer


def node_seeds(peer: Peer) -> Iterator[bytes]:
    """What a sound peer sends, in the forms that `Peer.send` takes."""
    with tempfile.TemporaryDirectory() as folder:
        image = _write_dicom(Path(folder, "a.dcm"))
        stored = _recorded(peer.port, lambda port: _store(port, image))
    echoed = _recorded(peer.port, _echo)
    for whole in (echoed, stored):
        first, *others = _pdus(whole)
        yield bytes([0]) + whole
        yield bytes([0]) + first
        yield bytes([1]) + b"".join(others)
        fragments = b"".join(pdu[6:] for pdu in others if pdu[0] == _DATA)
        yield bytes([2]) + fragments


def _fragments(rest: bytes) -> bytes:
    """Each fragment, with its length ahead, in a PDU of its own."""
    pdus, at = [], 0
    while at + 4 <= len(rest):
        (length,) = struct.unpack_from(">I", rest, at)
        fragment = rest[at + 4 : at + 4 + min(length, len(rest))]
        item = struct.pack(">I", len(fragment)) + fragment
        pdus.append(_HEAD.pack(_DATA, len(item)) + item)
        at += 4 + len(fragment)
    return b"".join(pdus)


def _pdus(stream: bytes) -> Iterator[bytes]:
    at = 0
    while at + 6 <= len(stream):
        end = at + 6 + _HEAD.unpack_from(stream, at)[1]
        yield stream[at:end]
        at = end


def _echo(port: int) -> None:
    association = _associated(port)
    association.send_c_echo()
    association.release()


def _store(port: int, image: Path) -> None:
    association = _associated(port)
    association.send_c_store(dcmread(image))
    association.release()


def _associated(port: int):  # type: ignore[no-untyped-def]
    entity = AE()
    entity.add_requested_context(VERIFICATION)
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title="WSSEG")
    if not association.is_established:
        raise AssertionError("the node refuses a sound peer")
    return association


def _recorded(port: int, talk: Callable[[int], None]) -> bytes:
    """What `talk` sends to the node, seen on its way."""
    sent: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def pass_on(source: socket.socket, target: socket.socket, kept: list[bytes]) -> None:
            while part := source.recv(1 << 16):
                kept.append(part)
                target.sendall(part)
            target.shutdown(socket.SHUT_WR)

        def between() -> None:
            peer, _ = server.accept()
            with peer, socket.create_connection(("127.0.0.1", port)) as node:
                back = threading.Thread(target=pass_on, args=(node, peer, []))
                back.start()
                pass_on(peer, node, sent)
                back.join()

        thread = threading.Thread(target=between)
        thread.start()
        talk(server.getsockname()[1])
        thread.join()
    return b"".join(sent)
