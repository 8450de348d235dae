"""Requests to one DICOMweb server: no other is reached, and each answer has a limit and an end."""

import base64
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from wsseg.imaging.errors import ReadError
from wsseg.serve.dicomweb.server import Server

T = TypeVar("T")

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 1.0
"""Before the second attempt; each further wait is twice as long."""
TIMEOUT_SECONDS = (10.0, 60.0)
"""For a connection, and for each wait within an answer."""
ANSWER_BYTES = 1 << 26
"""Most bytes of an answer that is held in memory: lists, and what a server says of a request."""
PAGE = 1000
"""Most entries that are asked for at once."""
PART_HEADER_BYTES = 1 << 16
CHUNK = 1 << 20
DICOM = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""Objects as they are stored: the server need not decode them."""
OUT_OF_RESOURCES, DUPLICATE = 0xA7, 0x0111
"""Reasons of a server that does not store an object: the high byte of one, and the other."""
SILENT = logging.CRITICAL + 1
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)

Json = dict[str, Any]


class ServerError(ReadError):
    """A request that a server did not fulfil. transient: another attempt may succeed."""

    def __init__(self, reason: str, message: str, *, transient: bool = False) -> None:
        super().__init__(reason, message)
        self.transient = transient


class Session:
    """The requests of one thread to one server, each attempted several times.

    wait: called with seconds between attempts; True ends them. Raises ServerError, which
    quotes nothing of what the server or a library says: that may name patients.
    """

    def __init__(
        self,
        server: Server,
        wait: Callable[[float], bool] | None = None,
        *,
        attempts: int = ATTEMPTS,
    ) -> None:
        _keep_quiet()
        self._attempts = attempts
        self._wait = wait or threading.Event().wait
        self._session = requests.Session()
        # Neither proxies nor passwords from elsewhere.
        self._session.trust_env = False
        # There is no way to any other place, whatever the server redirects to.
        self._session.adapters.clear()
        self._session.mount(server.origin, _Adapter())
        given = server.credentials
        if given.user:
            self._session.auth = _Basic(given.user, given.password)
        if given.token:
            self._session.headers["Authorization"] = f"Bearer {given.token}"
        self._session.verify = given.authority or True
        self._session.cert = given.certificate or None
        # Attempts are counted here, so that those for what ends early count as well. One chunk:
        # of a body in several, a second attempt of the client would send nothing.
        self._client = DICOMwebClient(
            server.url,
            self._session,
            chunk_size=1 << 40,
            permissive_uid=True,
            timeout=TIMEOUT_SECONDS,
        )
        self._client.set_http_retry_params(retry=False)

    def close(self) -> None:
        """End all connections."""
        self._session.close()

    def series(self, query: dict[str, str]) -> Iterator[Json]:
        """Study and series of all series that match, as DICOM JSON."""
        return self._pages(
            lambda **page: self._client.search_for_series(
                fields=["0020000D", "0020000E"], search_filters=query, **page
            )
        )

    def instances(self, study: str, series: str) -> Iterator[Json]:
        """All instances of a series, as DICOM JSON."""
        return self._pages(
            lambda **page: self._client.search_for_instances(
                study, series, fields=["00080018"], **page
            )
        )

    def retrieve(self, name: str, file: Path, most: int) -> int:
        """Write the instance STUDY/SERIES/INSTANCE, as it is stored, to `file`.

        Returns its bytes, `most` at most.
        """
        study, series, instance = name.split("/")
        place = f"studies/{study}/series/{series}/instances/{instance}"

        def attempt() -> int:
            with self._session.get(
                f"{self._client.base_url}/{place}",
                headers={"Accept": DICOM, "Accept-Encoding": "identity"},
                stream=True,
                timeout=TIMEOUT_SECONDS,
            ) as answer:
                answer.raise_for_status()
                written = 0
                with file.open("wb") as stream:
                    for chunk in _only_part(answer):
                        written += len(chunk)
                        if written > most:
                            raise ServerError(
                                "too_large", "it has more bytes than --series-mb allows"
                            )
                        stream.write(chunk)
                return written

        return self.persist(attempt)

    def store(self, dataset: Dataset) -> None:
        """Store an object; one that the server has already counts as stored."""

        def attempt() -> None:
            said = self._client.store_instances([dataset])
            if refused := said.get("FailedSOPSequence"):
                code = int(refused[0].get("FailureReason", 0))
                if code == DUPLICATE:
                    return
                raise ServerError(
                    "not_stored",
                    f"the server refused it for the reason {code:04X}H",
                    transient=code >> 8 == OUT_OF_RESOURCES,
                )

        self.persist(attempt)

    def persist(self, attempt: Callable[[], T]) -> T:
        """The result of `attempt`, which is repeated, after a wait, where that may help."""
        for left in reversed(range(self._attempts)):
            try:
                return attempt()
            except OSError as error:
                if not isinstance(error, requests.RequestException):
                    raise  # of the disk
                found = _explained(error)
            except ServerError as error:
                found = error
            except (ValueError, LookupError, TypeError, AttributeError):
                found = ServerError("server_answer", "the server's answer is not DICOMweb")
            wait = FIRST_WAIT_SECONDS * 2 ** (self._attempts - left - 1)
            if not (found.transient and left) or self._wait(wait):
                raise found from None  # what caused it may quote the request
        raise AssertionError("attempts end by a return or an error")

    def _pages(self, search: Callable[..., list[Json]]) -> Iterator[Json]:
        """All entries of a list, page by page; one that the server repeats is not repeated."""
        seen: set[int] = set()
        offset = 0
        while True:
            page = self.persist(partial(search, limit=PAGE, offset=offset))
            before = len(seen)
            for entry in page:
                if (digest := hash(repr(entry))) not in seen:
                    seen.add(digest)
                    yield entry
            if len(seen) == before:  # nothing more, or a server that ignores the offset
                return
            offset += len(page)


@dataclass(frozen=True)
class _Basic(AuthBase):
    """Basic authentication in UTF-8 (RFC 7617); requests would take Latin-1."""

    user: str
    password: str = field(repr=False)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        secret = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        request.headers["Authorization"] = f"Basic {secret}"
        return request


class _Adapter(HTTPAdapter):
    """Sends requests of one session."""

    def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
        """The answer to a request; what is held in memory has at most `ANSWER_BYTES`."""
        # The client names the host without its port.
        request.headers.pop("Host", None)
        answer = super().send(request, *arguments, **options)
        if not options.get("stream"):
            read = answer.raw.stream

            def stream(*sizes: Any, **how: Any) -> Iterator[bytes]:
                taken = 0
                for chunk in read(*sizes, **how):
                    taken += len(chunk)
                    if taken > ANSWER_BYTES:
                        raise ServerError("server_answer", "the server's answer has no end")
                    yield chunk

            answer.raw.stream = stream
            # The client knows its kind without parameters only.
            kind = answer.headers.get("Content-Type", "")
            if "json" in kind or "xml" in kind:
                answer.headers["Content-Type"] = kind.partition(";")[0].strip()
        return answer


def _only_part(answer: requests.Response) -> Iterator[bytes]:
    """The content of the only part of a multipart answer, in chunks.

    Raises ServerError, transient, for one that ends before its end.
    """
    kind = Message()
    kind["Content-Type"] = answer.headers.get("Content-Type", "")
    boundary = kind.get_boundary()
    chunks = answer.iter_content(CHUNK)
    if kind.get_content_type() == "application/dicom":  # not allowed, and seen
        yield from chunks
        return
    if kind.get_content_type() != "multipart/related" or not boundary:
        raise ServerError("server_answer", "the server's answer is no DICOM object")
    closing = f"\r\n--{boundary}".encode()
    held, in_part = b"\r\n", False
    for chunk in chunks:
        held += chunk
        if not in_part:
            _, found, content = held.partition(b"\r\n\r\n")
            if not found:
                if len(held) > PART_HEADER_BYTES:
                    break
                continue
            held, in_part = content, True
        at = held.find(closing)
        if at >= 0:
            yield held[:at]
            next(
                chunks, None
            )  # the connection serves again only where an answer is read to its end
            return
        ready = max(0, len(held) - len(closing))
        yield held[:ready]
        held = held[ready:]
    raise ServerError("server_connection", "the server's answer ended early", transient=True)


def _explained(error: requests.RequestException) -> ServerError:
    """What to say of a failed request, in words of our own."""
    answer = error.response
    match error:
        case requests.HTTPError() if answer is not None:
            code = answer.status_code
            if code in (401, 403):
                return ServerError(
                    "server_refused",
                    f"the server refused access (HTTP status {code}): check the credentials in "
                    "the environment variables WSSEG_DICOMWEB_..., or WSSEG_STORE_...",
                )
            said = f"the server answered with HTTP status {code}"
            return ServerError("server_status", said, transient=code in TRANSIENT)
        case requests.exceptions.SSLError():
            return ServerError(
                "server_certificate",
                "the server's certificate is not trusted: name the file with that of its "
                "authority by WSSEG_DICOMWEB_CA, or WSSEG_STORE_CA",
            )
        case requests.exceptions.InvalidSchema() | requests.TooManyRedirects():
            return ServerError(
                "server_redirect", "the server redirects to another one, which is not followed"
            )
        case requests.exceptions.JSONDecodeError():
            return ServerError("server_answer", "the server's answer is not DICOMweb")
        case _:
            said = "the server cannot be reached, or ended the connection"
            return ServerError("server_connection", said, transient=True)


def _keep_quiet() -> None:
    """Let libraries log nothing: requests, and what servers say, may name patients."""
    for name in ("dicomweb_client", "urllib3", "retrying"):
        logging.getLogger(name).setLevel(SILENT)
