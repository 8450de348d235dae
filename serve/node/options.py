"""The options of a node, and the places that results are returned to."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeFloat, PositiveInt

from wsseg.imaging.definitions import Frozen
from wsseg.imaging.errors import WssegError

_AE = re.compile(r"[A-Za-z0-9_.-]([A-Za-z0-9_. -]{0,14}[A-Za-z0-9_.-])?")
_DESTINATION = re.compile(
    r"(?P<aet>[^@]+)@(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(?P<port>\d+)"
)
_UNSAFE = re.compile(r"[^A-Za-z0-9.@_-]")


def _is_title(text: str) -> str:
    if not _AE.fullmatch(text):
        raise ValueError(
            f"{text!r} is no application entity title: write 1 to 16 letters, digits, spaces and "
            "any of _ . -"
        )
    return text


Title = Annotated[str, AfterValidator(_is_title)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Destination(Frozen):
    """An archive that results are sent to by C-STORE."""

    aet: Title
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]

    @property
    def folder(self) -> str:
        """A name for the folder of what waits to be sent there."""
        return _UNSAFE.sub("_", f"{self.aet}@{self.host}_{self.port}")

    def __str__(self) -> str:
        return f"{self.aet}@{self.host}:{self.port}"


def _as_destination(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _DESTINATION.fullmatch(value)
    if not match:
        raise ValueError(f"{value!r} is no place to return to: write AE@HOST:PORT")
    return Destination(aet=match["aet"], host=match["host"].strip("[]"), port=int(match["port"]))


def _is_network(text: str) -> str:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no address: write one such as 10.1.2.3, or a network such as 10.1.0.0/16"
        ) from error
    return text


Returned = Annotated[Destination, BeforeValidator(_as_destination)]
Network = Annotated[str, AfterValidator(_is_network)]


class NodeOptions(Frozen):
    """What a node listens to, what it accepts, and where its results go.

    aet: its application entity title, which a caller has to use. host: address to listen on. port,
    http_port: 0 for any free one; http_port is of health and metrics on http_host, None for
    neither. returns: archives that results are sent to. spool: folder of everything it holds.

    allow_aes, allow_from: calling titles, and addresses or networks, that are accepted; empty for
    all. tls_cert, tls_key, tls_ca: files in PEM; with tls_ca, a client needs a certificate that it
    signed. return_tls: results are returned by TLS too.

    settle: seconds without an instance after which a series is complete. settle_released: the same
    once every association that sent it was released. retry: first pause in seconds before what
    failed is tried again; it doubles up to an hour. give_up_hours: results that could not be
    returned for so long are given up. keep_hours: instances are kept for so long after their
    results were returned.

    max_instance_mb, max_spool_gb: size of an instance in MiB, and of all that are held in GiB.
    min_free_gb: free space of the disk in GiB, below which nothing is accepted. max_associations:
    at once. idle_seconds: a peer that is silent for so long is cut off.
    """

    aet: Title = "WSSEG"
    host: str = "127.0.0.1"
    port: Port = 11112
    spool: Path
    returns: tuple[Returned, ...] = ()
    allow_aes: tuple[Title, ...] = ()
    allow_from: tuple[Network, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    return_tls: bool = False
    settle: NonNegativeFloat = 30.0
    settle_released: NonNegativeFloat = 1.5
    retry: Annotated[float, Field(gt=0)] = 30.0
    give_up_hours: NonNegativeFloat = 72.0
    keep_hours: NonNegativeFloat = 1.0
    max_instance_mb: PositiveInt = 2048
    max_spool_gb: Annotated[float, Field(gt=0)] = 100.0
    min_free_gb: NonNegativeFloat = 2.0
    max_associations: PositiveInt = 10
    idle_seconds: Annotated[float, Field(gt=0)] = 60.0
    http_host: str = "127.0.0.1"
    http_port: Port | None = None

    @property
    def networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """The networks of `allow_from`."""
        return tuple(ipaddress.ip_network(each, strict=False) for each in self.allow_from)


def check_node(options: NodeOptions) -> None:
    """Raise WssegError for options that do not fit together."""
    if (options.tls_cert is None) != (options.tls_key is None):
        raise WssegError("--tls-cert and --tls-key belong together: give both, or neither")
    if options.tls_ca and not (options.tls_cert or options.return_tls):
        raise WssegError("--tls-ca is for TLS: give --tls-cert and --tls-key, or leave it out")
    folders = [each.folder for each in options.returns]
    if len(set(folders)) < len(folders):
        raise WssegError("--return names a destination twice: leave one out")
