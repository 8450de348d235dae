"""Results go back by C-STORE, each until it is accepted or given up."""

import logging
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom.filereader import read_file_meta_info
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from wsseg.imaging.dicom.file import silence_pydicom
from wsseg.imaging.errors import unquoted
from wsseg.serve.node.durable import sync_folder
from wsseg.serve.node.intake import PDU_BYTES, guard
from wsseg.serve.node.measuring import LONGEST_PAUSE, OUT
from wsseg.serve.node.metrics import Metrics
from wsseg.serve.node.options import Destination, NodeOptions
from wsseg.serve.node.server import tls_context
from wsseg.serve.node.spool import SERIES, UNRETURNED, Spool, read_json

MOST_AT_ONCE = 100
"""Objects that are sent in one association."""
DUPLICATE = 0x0111
CONNECTION_SECONDS = 10.0

logger = logging.getLogger(__name__)


@dataclass
class _Pause:
    """What failed is tried again after a time that doubles, with jitter, up to an hour."""

    first: float
    failures: int = 0
    until: float = 0.0

    def longer(self) -> None:
        seconds = min(self.first * 2 ** min(self.failures, 20), LONGEST_PAUSE)
        self.failures += 1
        # Jitter: many nodes must not meet an archive at the same moment when it is back.
        self.until = time.monotonic() + seconds * random.uniform(0.5, 1.0)

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.until


class Sender:
    """Returns the objects of the spool; one thread calls `step` again and again.

    An object waits as a file in `returning/SERIES/out/DESTINATION/` and is removed when it was
    accepted: after a restart the rest is there. One that is refused waits alone; where an archive
    cannot be reached, all that is for it waits.
    """

    def __init__(self, options: NodeOptions, spool: Spool, metrics: Metrics) -> None:
        self.options = options
        self.spool = spool
        self.metrics = metrics
        self._destinations = {each.folder: each for each in options.returns}
        self._unreachable: dict[str, _Pause] = {}
        self._refused: dict[Path, _Pause] = {}
        self._lock = threading.Lock()
        self._keys: set[str] = set()
        self._at: set[str] = set()
        self.entity = AE(ae_title=options.aet)
        self.entity.maximum_pdu_size = PDU_BYTES
        self.entity.network_timeout = self.entity.dimse_timeout = options.idle_seconds
        self.entity.acse_timeout = min(options.idle_seconds, 30.0)
        self.entity.connection_timeout = CONNECTION_SECONDS
        _config.STORE_SEND_CHUNKED_DATASET = True  # the bytes of the file as they are
        self._tls: Any = None
        if options.return_tls:
            self._tls = tls_context(options, client=True)

    def add(self, key: str) -> None:
        """A series came to the state `returning`."""
        with self._lock:
            self._keys.add(key)

    def withdraw(self, key: str) -> bool:
        """Leave a series to who asks, as it is measured anew; False while it is being sent."""
        with self._lock:
            if key in self._at:
                return False
            self._keys.discard(key)
            return True

    def step(self) -> bool:
        """Send what can be sent now; True if anything was."""
        with self._lock:
            keys = sorted(self._keys)
        waiting: dict[str, list[Path]] = {}
        for key in keys:
            out = self.spool.folder("returning", key) / OUT
            files = [file for file in _files(out) if self._is_due(file)]
            for file in files:
                waiting.setdefault(file.parent.name, []).append(file)
            if not files and not any(_files(out)):
                self._finish(key)
        sent = False
        for name, files in waiting.items():
            sent = self._send_all(name, files[:MOST_AT_ONCE]) or sent
        return sent

    def _is_due(self, file: Path) -> bool:
        pause = self._unreachable.get(file.parent.name)
        return (not pause or pause.over) and (file not in self._refused or self._refused[file].over)

    def _finish(self, key: str) -> None:
        """All objects of a series were accepted or given up."""
        with self._lock:
            if key in self._keys:
                self._keys.discard(key)
                folder = self.spool.folder("returning", key)
                if folder.exists():
                    folder.touch()  # it is kept from now on
                    self.spool.move(key, "returning", "done")

    def _send_all(self, name: str, files: list[Path]) -> bool:
        destination = self._destinations.get(name)
        if destination is None:
            for file in files:
                self._not_accepted(file, "its destination is not among --return any more")
            return False
        association = self._associate(destination, files)
        if not association.is_established:
            self._unreachable.setdefault(name, _Pause(self.options.retry)).longer()
            logger.warning(
                "%s does not take an association; its results wait",
                destination,
                extra={"event": "unreachable", "destination": str(destination)},
            )
            for file in files:
                self._not_accepted(file, "no association was possible", alone=False)
            return False
        self._unreachable.pop(name, None)
        sent = False
        for file in files:
            key = file.parent.parent.parent.name
            if not association.is_established:
                break
            with self._lock:
                if key not in self._keys:  # it is measured anew
                    continue
                self._at.add(key)
            try:
                sent = self._send(association, file) or sent
            finally:
                with self._lock:
                    self._at.discard(key)
        if association.is_established:
            association.release()
        return sent

    def _associate(self, destination: Destination, files: list[Path]) -> Association:
        kinds = dict.fromkeys(filter(None, map(_kind, files)))
        contexts = [build_context(sop_class, syntax) for sop_class, syntax in kinds]
        return self.entity.associate(
            destination.host,
            destination.port,
            contexts=contexts[:128],
            ae_title=destination.aet,
            max_pdu=PDU_BYTES,
            tls_args=(self._tls, destination.host) if self._tls else None,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, lambda event: guard(event.assoc, self.options.idle_seconds))
            ],
        )

    def _send(self, association: Association, file: Path) -> bool:
        """Send one object; True if it was accepted."""
        try:
            with unquoted("sending"), silence_pydicom:
                answer = association.send_c_store(file)
            status = answer.get("Status")
        except Exception as error:  # of a class that the peer does not take, or a file that is gone
            self._not_accepted(file, f"it cannot be sent: {error.__cause__ or error}")
            return False
        if status is None:
            self._not_accepted(file, "no answer came")
            return False
        # A warning (0xBxxx) is of an object that was stored; a duplicate is there already.
        if status in (0, DUPLICATE) or 0xB000 <= status <= 0xBFFF:
            file.unlink()
            sync_folder(file.parent)
            self._refused.pop(file, None)
            self.metrics.objects.labels("returned").inc()
            return True
        self._not_accepted(file, f"it is refused with status 0x{status:04X}")
        return False

    def _not_accepted(self, file: Path, why: str, *, alone: bool = True) -> None:
        """Try an object again later, or give it up. alone: the reason is not its destination."""
        self.metrics.objects.labels("retried").inc()
        folder = file.parent.parent.parent
        if alone:
            self._refused.setdefault(file, _Pause(self.options.retry)).longer()
            logger.warning("a result is not accepted: %s", why, extra={"event": "not_accepted"})
        measured = str(read_json(folder / SERIES).get("measured", ""))
        if not measured or not file.exists():
            return
        hours = (datetime.now(UTC) - datetime.fromisoformat(measured)).total_seconds() / 3600
        if hours < self.options.give_up_hours:
            return
        with self._lock:
            if folder.name not in self._keys:
                return
            scratch = self.spool.scratch()
            scratch.mkdir()
            file.rename(scratch / file.name)
            destination = self._destinations.get(file.parent.name, file.parent.name)
            self.spool.bury(scratch, f"{UNRETURNED}-{folder.name}", f"{destination}: {why}")
        self._refused.pop(file, None)
        self.metrics.objects.labels("dead").inc()
        logger.error("a result is given up: %s", why, extra={"event": "result_given_up"})


def _files(out: Path) -> Iterator[Path]:
    return (file for file in sorted(out.glob("*/*.dcm")))


def _kind(file: Path) -> tuple[Any, Any] | None:
    """SOP class and transfer syntax of an object; None if it is gone."""
    try:
        meta = read_file_meta_info(file)
    except OSError:
        return None
    return meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID
