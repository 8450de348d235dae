"""Health and metrics over HTTP, on a port of their own."""

import threading
from collections.abc import Callable, Iterable
from functools import partial
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from wsseg.imaging.errors import WssegError

Check = Callable[[], str]
"""Why something is not in order; "" if it is."""

POLL_SECONDS = 0.2
SECONDS = 10
"""A client that is silent for so long is cut off."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: probes come every few seconds."""


def serve_health(
    host: str, port: int, registry: CollectorRegistry, *, alive: Check, ready: Check
) -> tuple[int, Callable[[], None]]:
    """Serve /healthz, /readyz and /metrics in threads; returns the port, and what stops it.

    Raises WssegError where the port cannot be had.
    """

    def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        kind, status = "text/plain; charset=utf-8", "200 OK"
        if path == "/metrics":
            kind, body = CONTENT_TYPE_LATEST, generate_latest(registry)
        elif path in ("/healthz", "/readyz"):
            fault = alive() if path == "/healthz" else ready()
            body = (fault or "ok").encode() + b"\n"
            status = "503 Service Unavailable" if fault else status
        else:
            body, status = b"there are /healthz, /readyz and /metrics\n", "404 Not Found"
        start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    try:
        server = make_server(host, port, application, _Server, _Handler)
    except OSError as error:
        raise WssegError(
            f"cannot listen on {host} port {port} ({error.strerror or error}): choose another "
            "--http-host or --http-port"
        ) from error
    serve = partial(server.serve_forever, POLL_SECONDS)
    thread = threading.Thread(target=serve, name="wsseg-http", daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return server.server_port, stop
