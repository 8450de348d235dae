"""Who may call, and what a peer can do to the node: nothing that holds up or fills it."""

import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage, Verification  # type: ignore[attr-defined]

from tests.serve.node.conftest import PATIENCE, node, send, until, write_series
from wsseg.imaging import WssegError

pytestmark = [
    pytest.mark.slow,
    # pynetdicom leaves a socket that the peer closed to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NEVER = 1e9
MIB = 1 << 20


class Holding(NamedTuple):
    port: int
    spool: Path

    def held(self) -> list[Path]:
        return sorted(self.spool.glob("inbox/*/instances/*.dcm"))


@pytest.fixture(scope="module")
def holding(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holding]:
    """A node that only stores, and takes instances of up to a MiB."""
    spool = tmp_path_factory.mktemp("holding") / "spool"
    options = {"settle": NEVER, "settle_released": NEVER, "max_instance_mb": 1}
    with node(model, spool, max_associations=2, **options) as ports:
        yield Holding(ports.dicom, spool)


def echoes(port: int, **options: Any) -> bool:
    """Whether the node answers a C-ECHO."""
    entity = AE(ae_title=options.pop("calling", "TEST"))
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", port, ae_title="WSSEG", **options)
    if not association.is_established:
        if association.dul.socket:
            association.dul.socket.close()  # which pynetdicom leaves to the collector
        return False
    status = association.send_c_echo().get("Status")
    association.release()
    return bool(status == 0)


def closed(stream: socket.socket) -> bool:
    """Whether the other side closes the connection."""
    stream.settimeout(PATIENCE)
    try:
        while stream.recv(4096):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


def large(folder: Path, name: str, nbytes: int) -> list[Path]:
    return write_series(folder, name, 1, ICCProfile=b"\1" * nbytes)


def test_bytes_are_stored_as_they_came(holding: Holding, tmp_path: Path):
    (file,) = write_series(tmp_path, "compressed", 1)
    dataset = pydicom.dcmread(file)
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    dataset.save_as(file)
    before = set(holding.held())
    subprocess.run(
        ["storescu", "-aec", "WSSEG", "-xr", "127.0.0.1", str(holding.port), str(file)],
        check=True,
        capture_output=True,
    )
    (stored,) = set(holding.held()) - before
    found = pydicom.dcmread(stored)
    assert found.file_meta.TransferSyntaxUID == RLELossless
    assert found == dataset
    assert np.array_equal(found.pixel_array, dataset.pixel_array)


def test_an_instance_that_is_too_large_is_refused_and_the_next_is_taken(
    holding: Holding, tmp_path: Path
):
    before = len(holding.held())
    files = [*large(tmp_path, "large", 3 * MIB // 2), *write_series(tmp_path, "next", 1)]
    assert send(holding.port, files) == [0xA700, 0]
    assert len(holding.held()) == before + 1
    assert not list((holding.spool / "partial").iterdir())


def test_an_instance_without_an_end_is_aborted(holding: Holding, tmp_path: Path):
    before = holding.held()
    statuses = send(holding.port, large(tmp_path, "endless", 8 * MIB))
    assert statuses in ([-1], [])
    assert holding.held() == before
    until(lambda: echoes(holding.port), "an answer")


def test_an_instance_that_breaks_off_leaves_nothing(holding: Holding):
    before = holding.held()
    association = associated(holding.port)
    stream = association.dul.socket.socket
    command = bytes.fromhex("00000000 04000000 00000000".replace(" ", ""))
    stream.sendall(pdu(4, pdv(1, 3, store_command()) + pdv(1, 0, command * 1000)))
    until(lambda: list((holding.spool / "partial").iterdir()), "the beginning")
    stream.shutdown(socket.SHUT_RDWR)
    until(lambda: not list((holding.spool / "partial").iterdir()), "its removal")
    assert holding.held() == before


def associated(port: int) -> Any:
    """An association, once an earlier one has left its place."""
    entity = AE(ae_title="TEST")
    entity.add_requested_context(MRImageStorage)

    def attempt() -> Any:
        association = entity.associate("127.0.0.1", port, ae_title="WSSEG")
        return association if association.is_established else None

    return until(attempt, "an association")


def pdu(kind: int, content: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBL", kind, 0, len(content) if length is None else length) + content


def pdv(context: int, control: int, content: bytes) -> bytes:
    return struct.pack(">LBB", len(content) + 2, context, control) + content


def store_command() -> bytes:
    """A C-STORE request, in implicit VR."""
    uid = b"1.2.3.4\0"
    elements = [
        (0x0002, MRImageStorage.encode() + b"\0"),
        (0x0100, struct.pack("<H", 1)),
        (0x0110, struct.pack("<H", 7)),
        (0x0700, struct.pack("<H", 0)),
        (0x0800, struct.pack("<H", 1)),
        (0x1000, uid),
    ]
    body = b"".join(
        struct.pack("<HHL", 0, element, len(value) + len(value) % 2)
        + value
        + b"\0" * (len(value) % 2)
        for element, value in elements
    )
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


@pytest.mark.parametrize(
    "sent",
    [
        pdu(4, b"", 0xFFFFFFF0),
        pdu(1, b"", 0xFFFFFFF0),
        pdu(4, struct.pack(">LBB", 0xFFFFFFF0, 1, 3)),
        pdu(4, pdv(1, 3, b"\xff" * 40)),
        pdu(4, pdv(1, 0, b"no command")),
        pdu(4, pdv(1, 1, b"\0" * 60000)) * 3,
        pdu(4, pdv(99, 3, b"")),
        pdu(4, struct.pack(">LB", 1, 1)),
        pdu(9, b""),
        pdu(4, pdv(1, 3, store_command()) * 2),
        pdu(4, (pdv(1, 3, store_command()) + pdv(1, 2, b"\0" * 8)) * 20),
    ],
    ids=[
        "long PDU of data",
        "long request",
        "long value",
        "damaged command",
        "data without a command",
        "endless command",
        "unknown context",
        "empty fragment",
        "unknown kind",
        "command within data",
        "without waiting",
    ],
)
def test_a_hostile_peer_is_cut_off_and_the_node_works_on(holding: Holding, sent: bytes):
    association = associated(holding.port)
    association.dul.socket.socket.sendall(sent)
    until(lambda: not association.is_established, "an abort")
    until(lambda: echoes(holding.port), "an answer")


def test_a_request_of_any_length_is_cut_off_and_its_place_is_free(holding: Holding):
    for _ in range(4):  # of two places
        with socket.create_connection(("127.0.0.1", holding.port)) as stream:
            stream.sendall(pdu(1, b"", 0xFFFFFFF0))
            assert closed(stream)
    until(lambda: echoes(holding.port), "an answer")


def test_more_associations_than_allowed_are_rejected(holding: Holding):
    open_ones = [associated(holding.port) for _ in range(2)]
    assert not echoes(holding.port)
    for association in open_ones:
        association.release()
    until(lambda: echoes(holding.port), "a free place")


def test_only_allowed_titles_and_addresses_may_call(model: Path, tmp_path: Path):
    options = {"allow_aes": ("CT_1", "MR 2"), "allow_from": ("127.0.0.1", "10.0.0.0/8")}
    with node(model, tmp_path / "spool", **options) as ports:
        assert echoes(ports.dicom, calling="MR 2")
        assert not echoes(ports.dicom, calling="TEST")
        assert not echoes(ports.dicom, calling="MR 2", bind_address=("127.0.0.2", 0))


def test_a_silent_caller_is_cut_off(model: Path, tmp_path: Path):
    with (
        node(model, tmp_path / "spool", idle_seconds=0.2) as ports,
        socket.create_connection(("127.0.0.1", ports.dicom)) as silent,
        socket.create_connection(("127.0.0.1", ports.dicom)) as halfway,
    ):
        halfway.sendall(b"\x01\0\0")
        assert closed(silent)
        assert closed(halfway)


@pytest.mark.parametrize(
    "options", [{"max_spool_gb": 1e-9}, {"min_free_gb": 1e9}], ids=["spool", "disk"]
)
def test_what_finds_no_room_is_refused_and_readiness_says_so(
    model: Path, tmp_path: Path, options: dict[str, float]
):
    import urllib.error
    import urllib.request

    files = write_series(tmp_path, "full", 2)
    settings = {"settle": NEVER, "settle_released": NEVER} | options
    with node(model, tmp_path / "spool", http_port=0, **settings) as ports:
        first = 0 if "max_spool_gb" in options else 0xA700
        assert send(ports.dicom, files) == [first, 0xA700]
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"http://127.0.0.1:{ports.http}/readyz")
        with urllib.request.urlopen(f"http://127.0.0.1:{ports.http}/healthz") as answer:
            assert answer.status == 200


def test_two_nodes_do_not_share_a_spool_or_a_port(model: Path, tmp_path: Path):
    with node(model, tmp_path / "spool") as ports:
        with (
            pytest.raises(WssegError, match="another node has the spool"),
            node(model, tmp_path / "spool"),
        ):
            pass
        with (
            pytest.raises(WssegError, match=r"cannot listen.*--port"),
            node(model, tmp_path / "other", port=ports.dicom),
        ):
            pass


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and certificates that it signed: node.pem and client.pem, each with a .key."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test")
    for name in ("node", "client"):
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
        openssl("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=x")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-extfile", "names", "-out", f"{name}.pem"),
        )
    return folder


def test_tls_takes_only_callers_with_a_certificate_and_waits_for_none(
    model: Path, tmp_path: Path, certificates: Path
):
    options = {
        "tls_cert": certificates / "node.pem",
        "tls_key": certificates / "node.key",
        "tls_ca": certificates / "ca.pem",
    }
    with (
        node(model, tmp_path / "spool", **options) as ports,
        socket.create_connection(("127.0.0.1", ports.dicom)),  # and says nothing
    ):
        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        assert not echoes(ports.dicom)
        assert not echoes(ports.dicom, tls_args=(context, "127.0.0.1"))
        context.load_cert_chain(certificates / "client.pem", certificates / "client.key")
        assert echoes(ports.dicom, tls_args=(context, "127.0.0.1"))
        keys = [str(certificates / name) for name in ("client.key", "client.pem")]
        subprocess.run(
            [
                *("storescu", "-aec", "WSSEG", "+tls", *keys),
                *("+cf", str(certificates / "ca.pem"), "127.0.0.1", str(ports.dicom)),
                *map(str, write_series(tmp_path, "tls", 1)),
            ],
            check=True,
            capture_output=True,
        )


def test_handshakes_count_as_connections_and_have_an_end(
    model: Path, tmp_path: Path, certificates: Path, caplog: pytest.LogCaptureFixture
):
    options = {"tls_cert": certificates / "node.pem", "tls_key": certificates / "node.key"}
    with node(model, tmp_path / "spool", max_associations=1, idle_seconds=2, **options) as ports:
        with (
            socket.create_connection(("127.0.0.1", ports.dicom)),
            socket.create_connection(("127.0.0.1", ports.dicom)) as slow,
            socket.create_connection(("127.0.0.1", ports.dicom)) as third,
        ):
            assert closed(third)
            assert "too many are connected" in caplog.text
            # A greeting of 508 bytes, of which one comes now and then.
            slow.sendall(b"\x16\x03\x01\x02\x00" + b"\x01\x00\x01\xfc\x03\x03")
            end = time.monotonic() + PATIENCE
            with suppress(ConnectionError):
                while time.monotonic() < end and not _closed_now(slow):
                    slow.sendall(b"\0")
            assert time.monotonic() < end
        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        until(lambda: echoes(ports.dicom, tls_args=(context, "127.0.0.1")), "a place")


def _closed_now(stream: socket.socket) -> bool:
    """Whether the other side closes the connection within a moment."""
    stream.settimeout(0.2)
    try:
        return stream.recv(4096) == b""
    except TimeoutError:
        return False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"returns": ("PACS",)}, "AE@HOST:PORT"),
        ({"returns": ("A@h:1", "A@h:1")}, "twice"),
        ({"aet": "A" * 17}, "title"),
        ({"allow_from": ("ten",)}, "no address"),
        ({"tls_cert": Path("x")}, "belong together"),
        ({"tls_ca": Path("x")}, "for TLS"),
        ({"engine": "torch"}, "load_model"),
    ],
)
def test_options_that_cannot_be_used_are_told_in_one_line(
    model: Path, tmp_path: Path, options: dict[str, Any], message: str
):
    with (
        pytest.raises(WssegError, match=message) as error,
        node(model, tmp_path / "spool", **options),
    ):
        pass
    assert "\n" not in str(error.value)
