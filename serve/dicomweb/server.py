"""Which DICOMweb server is meant, by whose name it is asked, and what is asked for."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from wsseg.imaging.errors import WssegError

SCHEME = "dicomweb:"
SOURCE, STORE = "WSSEG_DICOMWEB", "WSSEG_STORE"
"""How the environment variables begin that hold the credentials of the server that is read from,
and of the one that results are stored on."""

# A path joins the two slashes of a URL, and a command line gives inputs as paths.
_NAMED = re.compile(r"dicomweb:(https?):/+(.+)", re.IGNORECASE)
_KEYWORD = re.compile(r"[A-Za-z]\w*|[0-9A-Fa-f]{8}")
_RESERVED = ("limit", "offset", "includefield", "fuzzymatching")


@dataclass(frozen=True)
class Credentials:
    """What a server knows the caller by; each is "" where it was not given.

    token: sent as `Authorization: Bearer`. authority: file with the certificates that are trusted
    in place of the public ones. certificate: file with the caller's own certificate and key.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    authority: str = ""
    certificate: str = ""

    @classmethod
    def of_environment(cls, prefix: str) -> "Credentials":
        """The credentials in PREFIX_USER, _PASSWORD, _TOKEN, _CA and _CERTIFICATE.

        Raises WssegError for a token beside a user, and for a file that is not there.
        """
        names = ("USER", "PASSWORD", "TOKEN", "CA", "CERTIFICATE")
        found = cls(*(os.environ.get(f"{prefix}_{name}", "") for name in names))
        if found.token and found.user:
            raise WssegError(f"{prefix}_USER and {prefix}_TOKEN are both set: keep one of them")
        for name, file in (("CA", found.authority), ("CERTIFICATE", found.certificate)):
            if file and not Path(file).is_file():
                raise WssegError(f"{prefix}_{name} names {file}, which is no file: check the path")
        return found


@dataclass(frozen=True)
class Server:
    """A DICOMweb server. url: of its service, without a slash at the end."""

    url: str
    credentials: Credentials = field(default=Credentials(), repr=False)

    @property
    def origin(self) -> str:
        """Protocol, host and port, with a slash at the end: all requests begin with it."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}/"

    @classmethod
    def named(cls, text: str, prefix: str = SOURCE) -> "Server":
        """The server that `dicomweb:http://host:port/path` names.

        prefix: of the environment variables with its credentials. Raises WssegError for a text that
        names none, and for one that holds a password, which lists of processes would show.
        """
        match = _NAMED.fullmatch(text)
        if not match:
            raise WssegError(
                f"{text} names no DICOMweb server: expected {SCHEME}https://HOST:PORT/PATH"
            )
        url = f"{match[1].lower()}://{match[2].rstrip('/')}"
        try:
            parts = urlsplit(url)
            usable = bool(parts.hostname) and not (parts.query or parts.fragment)
            _ = parts.port
        except ValueError:
            usable = False
        if not usable:
            raise WssegError(
                f"the address of the server {SCHEME}{match[1]}://... cannot be used: expected a "
                "host, and if need be a port and a path, without ? and #"
            )
        if "@" in parts.netloc:
            raise WssegError(
                f"the address of the server holds a user: leave it out, and set {prefix}_USER and "
                f"{prefix}_PASSWORD"
            )
        return cls(url, Credentials.of_environment(prefix))


def named_server(inputs: Sequence[Path]) -> Server | None:
    """The server that is the only input; None for files and folders.

    Raises WssegError for a server among other inputs.
    """
    servers = [path for path in inputs if str(path).lower().startswith(SCHEME)]
    if not servers:
        return None
    if len(inputs) > 1:
        raise WssegError(
            f"{len(inputs)} inputs, one of them a server: run wsseg-infer once for the server and "
            "once for the files"
        )
    return Server.named(str(servers[0]))


def store_server(text: str, source: Server | None) -> Server:
    """The server of `--store`. The one that is read from is known by the same credentials, unless
    others are set for storing. Raises WssegError as `Server.named` does."""
    server = Server.named(text, STORE)
    if source and server.origin == source.origin and server.credentials == Credentials():
        return Server(server.url, source.credentials)
    return server


def parse_query(text: str) -> dict[str, str]:
    """The attributes that series must match, of `StudyDate=20260101-20260131&Modality=CT`.

    Raises WssegError, which does not repeat the values, for a text that names no attribute.
    """
    pairs = parse_qsl(text, keep_blank_values=True)
    names = [name for name, _ in pairs]
    wrong = [name for name in names if name in _RESERVED or not _KEYWORD.fullmatch(name)]
    if not pairs or wrong or len(set(names)) < len(names) or not all(v for _, v in pairs):
        found = f"found {', '.join(names)}" if names else "found none"
        raise WssegError(
            "--query: expected ATTRIBUTE=VALUE, joined by &, each attribute once, such as "
            f"'StudyDate=20260101-20260131&Modality=CT'; {found}"
        )
    return dict(pairs)
