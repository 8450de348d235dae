"""The listening side: who may call, which objects are taken, and the answers."""

import logging
import socket
import ssl
import threading
from contextlib import suppress
from functools import partial
from ipaddress import IPv6Address, ip_address
from socketserver import TCPServer
from typing import Any, cast

from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AE, _config, evt
from pynetdicom.transport import ThreadedAssociationServer

from wsseg.imaging.dicom.file import can_decode
from wsseg.imaging.dicom.sop_classes import IMAGE_CLASSES
from wsseg.imaging.errors import WssegError
from wsseg.serve.node.arrivals import Arrivals
from wsseg.serve.node.instance import NOT_UNDERSTOOD, OUT_OF_RESOURCES, Arrival, RefusedError
from wsseg.serve.node.intake import PDU_BYTES, Intake, free_at_end, guard
from wsseg.serve.node.metrics import Metrics
from wsseg.serve.node.options import NodeOptions
from wsseg.serve.node.spool import Spool, digest

MIB = 1 << 20
POLL_SECONDS = 0.2
SUCCESS = 0x0000
VERIFICATION = UID("1.2.840.10008.1.1")
SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLossless,
    RLELossless,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    JPEG2000,
)
"""In this order of preference; those without an installed decoder are not offered."""

logger = logging.getLogger(__name__)


def settle_library() -> None:
    """Keep the lines of pynetdicom, which may quote what a peer sent, from the terminal.

    And let it send the bytes of a file as they are, without a data set in memory.
    """
    _config.STORE_SEND_CHUNKED_DATASET = True
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


def syntaxes() -> list[UID]:
    """The transfer syntaxes that are accepted here."""
    return [syntax for syntax in SYNTAXES if can_decode(syntax)]


class _Server(ThreadedAssociationServer):
    """Accepts connections: a slow handshake holds up nobody, and strangers are turned away."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *args: Any, node: NodeOptions, metrics: Metrics, **kwargs: Any) -> None:
        self._node = node
        self._metrics = metrics
        self._negotiating = 0
        self._counting = threading.Lock()
        super().__init__(*args, **kwargs)

    def get_request(self) -> tuple[Any, Any]:
        """The next connection. TLS is negotiated later, in its own thread."""
        if self.socket is None:
            raise OSError("the server is closed")
        return self.socket.accept()

    def verify_request(self, _request: Any, client_address: Any) -> bool:
        """Whether a connection from this address is taken."""
        address = ip_address(client_address[0].partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        networks = self._node.networks
        if networks and not any(address in network for network in networks):
            self._turned_away("address", str(address), "it is not among --allow-from")
            return False
        # Above the limit a peer is told so, which needs a thread: that has a limit too.
        if self._connections() >= 2 * self._node.max_associations:
            self._turned_away("too_many", str(address), "too many are connected")
            return False
        return True

    def _connections(self) -> int:
        """How many associations there are, and connections that may become one."""
        return len(self.active_associations) + self._negotiating

    def _negotiates(self, more: int) -> None:
        with self._counting:
            self._negotiating += more

    def process_request(self, request: Any, client_address: Any) -> None:
        """Go on with a connection in a thread of its own."""
        self._negotiates(1)
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread can be had
            self._negotiates(-1)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Begin the association, from which on it counts as one."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._negotiates(-1)

    def _turned_away(self, reason: str, address: str, why: str) -> None:
        self._metrics.associations.labels(reason).inc()
        logger.warning(
            "a connection from %s is turned away: %s",
            address,
            why,
            extra={"event": "turned_away", "reason": reason},
        )

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Negotiate TLS, if it is asked for, and begin the association."""
        request.settimeout(self._node.idle_seconds)
        if self.ssl_context:
            request = self._encrypted(self.ssl_context, request)
        super().finish_request(request, client_address)

    def _encrypted(self, context: ssl.SSLContext, request: socket.socket) -> ssl.SSLSocket:
        """The connection with TLS; OSError if the whole handshake takes longer than a PDU may."""
        encrypted = context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)

        def cut() -> None:
            with suppress(OSError):
                encrypted.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self._node.idle_seconds, cut)
        timer.start()
        try:
            encrypted.do_handshake()
        except BaseException:
            encrypted.close()
            raise
        finally:
            timer.cancel()
        return encrypted

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Say that a connection failed; a traceback on the terminal would help nobody."""
        self._turned_away("failed", client_address[0], "no association could begin (TLS?)")

    def stop(self) -> None:
        """Accept no more connections; associations go on."""
        TCPServer.shutdown(self)  # the library's own also closes what it did not open


class Receiver:
    """The C-STORE and C-ECHO SCP of a node."""

    def __init__(
        self, options: NodeOptions, spool: Spool, arrivals: Arrivals, metrics: Metrics
    ) -> None:
        self.options = options
        self.spool = spool
        self.arrivals = arrivals
        self.metrics = metrics
        self._server: _Server | None = None
        self._accepting: threading.Thread | None = None

    def start(self) -> int:
        """Listen, in threads; returns the port. Raises WssegError where that is not possible."""
        options = self.options
        settle_library()
        entity = AE(ae_title=options.aet)
        entity.maximum_pdu_size = PDU_BYTES
        entity.maximum_associations = options.max_associations
        entity.require_called_aet = True
        entity.require_calling_aet = list(options.allow_aes)
        entity.network_timeout = entity.dimse_timeout = options.idle_seconds
        entity.acse_timeout = min(options.idle_seconds, 30.0)
        entity.add_supported_context(VERIFICATION)
        for sop_class in sorted(IMAGE_CLASSES):
            entity.add_supported_context(sop_class, syntaxes())
        try:
            server = entity.make_server(
                (options.host, options.port),
                server_class=_Server,
                ssl_context=tls_context(options) if options.tls_cert else None,
                evt_handlers=self._handlers(),
                node=options,
                metrics=self.metrics,
            )
        except OSError as error:
            raise WssegError(
                f"cannot listen on {options.host} port {options.port} ({error.strerror or error}): "
                "choose another --host or --port"
            ) from error
        # `ApplicationEntity` keeps no list of servers that were made so, hence its own thread.
        accept = partial(server.serve_forever, POLL_SECONDS)
        self._accepting = threading.Thread(target=accept, name="wsseg-accept", daemon=True)
        self._accepting.start()
        self._server = cast("_Server", server)
        return int(server.server_address[1])

    @property
    def accepts(self) -> bool:
        """Whether connections are accepted, or are not to be."""
        return self._accepting is None or self._accepting.is_alive()

    def stop(self) -> None:
        """Accept no more associations; those that are open go on."""
        if self._server:
            self._server.stop()
            self._server.server_close()

    def abort(self) -> None:
        """End the associations that are open."""
        for association in self._server.active_associations if self._server else ():
            association.abort()

    @property
    def associations(self) -> int:
        """How many associations are open."""
        return len(self._server.active_associations) if self._server else 0

    def _handlers(self) -> list[Any]:
        return [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_ACCEPTED, partial(self._count, "accepted")),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_RELEASED, partial(self._ended, True)),
            (evt.EVT_ABORTED, partial(self._ended, False)),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_C_ECHO, lambda _event: SUCCESS),
            (evt.EVT_C_STORE, self._store),
        ]

    def _opened(self, event: evt.Event) -> None:
        association = event.assoc
        most = self.options.max_instance_mb * MIB
        begin = partial(Arrival, self.spool, most=most)
        association.dimse = Intake(association, begin, most)
        guard(association, self.options.idle_seconds)
        free_at_end(association)

    def _count(self, result: str, _event: evt.Event) -> None:
        self.metrics.associations.labels(result).inc()

    def _rejected(self, event: evt.Event) -> None:
        self._count("rejected", event)
        logger.warning(
            "an association from %s is rejected: its titles are not allowed, or too many are open",
            event.assoc.requestor.address,
            extra={"event": "association_rejected"},
        )

    def _ended(self, released: bool, event: evt.Event) -> None:
        self._closed(event)
        self.arrivals.ended(id(event.assoc), released=released)

    def _closed(self, event: evt.Event) -> None:
        intake = event.assoc.dimse
        if isinstance(intake, Intake):
            intake.drop()

    def _store(self, event: evt.Event) -> int:
        """Store an instance durably; returns the status of the response."""
        intake = event.assoc.dimse
        data_set = getattr(event.request, "DataSet", None)
        if not isinstance(intake, Intake) or data_set is None:
            return NOT_UNDERSTOOD
        arrival = intake.take(data_set.getvalue().decode())
        if arrival is None:  # the connection was closed meanwhile
            return OUT_OF_RESOURCES
        try:
            key = arrival.series()
            name = f"{digest(arrival.named.instance)}.dcm"
            stored = self.spool.store(arrival.path, key, name)
        except RefusedError as refused:
            return self._refused(refused)
        except OSError as error:
            return self._refused(
                RefusedError(OUT_OF_RESOURCES, "no_space", f"cannot be stored: {error.strerror}")
            )
        finally:
            arrival.remove()
        # Also for a repeated one: the others of its series are still to come.
        if stored or self.spool.folder("inbox", key).exists():
            self.arrivals.came(key, id(event.assoc))
        self.metrics.instances.labels("stored" if stored else "known").inc()
        return SUCCESS

    def _refused(self, refused: RefusedError) -> int:
        self.metrics.refused.labels(refused.reason).inc()
        logger.warning(
            "an instance is refused: %s",
            refused,
            extra={
                "event": "instance_refused",
                "reason": refused.reason,
                "status": f"0x{refused.status:04X}",
            },
        )
        return refused.status


def tls_context(options: NodeOptions, *, client: bool = False) -> ssl.SSLContext:
    """TLS of the server, or of a client that returns results, from the files of the options."""
    kind = ssl.PROTOCOL_TLS_CLIENT if client else ssl.PROTOCOL_TLS_SERVER
    context = ssl.SSLContext(kind)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if options.tls_cert and options.tls_key:
            context.load_cert_chain(options.tls_cert, options.tls_key)
        if options.tls_ca:
            context.load_verify_locations(options.tls_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        elif client:
            context.load_default_certs()
    except OSError as error:  # of which the errors of TLS are kinds
        raise WssegError(
            f"the files of TLS cannot be used ({error.strerror or error}): --tls-cert, --tls-key "
            "and --tls-ca take files in PEM"
        ) from error
    return context
