"""Results go back by C-STORE, each until it is accepted or given up."""

import logging
import random
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from wsseg.imaging.dicom.file import silence_pydicom
from wsseg.imaging.publishing import sync
from wsseg.serve.node.intake import PDU_BYTES, guard
from wsseg.serve.node.measuring import LONGEST_PAUSE, OUT
from wsseg.serve.node.metrics import Metrics
from wsseg.serve.node.options import Destination, NodeOptions
from wsseg.serve.node.server import VERIFICATION, tls_context
from wsseg.serve.node.spool import SERIES, UNRETURNED, Spool, digest, now_text, read_json

MOST_AT_ONCE = 100
"""Objects that are sent in one association."""
DUPLICATE = 0x0111
CONNECTION_SECONDS = 10.0

Kind = tuple[UID, UID]
"""SOP class and transfer syntax."""

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

    def __init__(
        self, options: NodeOptions, spool: Spool, metrics: Metrics, ended: threading.Event
    ) -> None:
        """Ended: set when nothing more is to be sent."""
        self.options = options
        self.spool = spool
        self.metrics = metrics
        self._destinations = {each.folder: each for each in options.returns}
        self._unreachable: dict[str, _Pause] = {}
        self._refused: dict[Path, _Pause] = {}
        self._waiting: dict[str, list[Path]] = {}
        self._sending = ""
        self._ended = ended
        self._association: Association | None = None
        self._lock = threading.Lock()
        self.entity = AE(ae_title=options.aet)
        self.entity.maximum_pdu_size = PDU_BYTES
        self.entity.network_timeout = self.entity.dimse_timeout = options.idle_seconds
        self.entity.acse_timeout = min(options.idle_seconds, 30.0)
        self.entity.connection_timeout = CONNECTION_SECONDS
        self._tls = tls_context(options, client=True) if options.return_tls else None

    def add(self, key: str) -> None:
        """Return the results of a series, if it is in the state `returning`."""
        folder = self.spool.folder("returning", key)
        if folder.exists():
            files = sorted((folder / OUT).glob("*/*.dcm"))
            with self._lock:
                self._waiting[key] = files

    def abort(self) -> None:
        """End the association that is open, if there is one."""
        association = self._association
        if association and association.is_established:
            association.abort()

    def withdraw(self, key: str) -> bool:
        """Leave a series to who asks, as it is measured anew; False while it is being sent."""
        with self._lock:
            if key == self._sending:
                return False
            for file in self._waiting.pop(key, ()):
                self._refused.pop(file, None)
            return True

    def step(self) -> bool:
        """Send what can be sent now; True if anything was."""
        with self._lock:
            waiting = {key: list(files) for key, files in self._waiting.items()}
        due: dict[str, list[Path]] = {}
        for files in waiting.values():
            for file in filter(self._is_due, files):
                due.setdefault(file.parent.name, []).append(file)
        sent = [self._send_all(name, files[:MOST_AT_ONCE]) for name, files in due.items()]
        for key in waiting:
            self._finish(key)
        return any(sent)

    def _is_due(self, file: Path) -> bool:
        pauses = (self._unreachable.get(file.parent.name), self._refused.get(file))
        return all(pause is None or pause.over for pause in pauses)

    def _finish(self, key: str) -> None:
        """Pass a series on if all of its objects were accepted or given up."""
        with self._lock:
            if self._waiting.get(key) != []:
                return
            self.spool.folder("returning", key).touch()  # it is kept from now on
            self.spool.move(key, "returning", "done")
            del self._waiting[key]
        logger.info("a series is done", extra={"event": "series_done", "series": key})

    def _send_all(self, name: str, files: list[Path]) -> bool:
        """Send objects to one destination; True if any was accepted."""
        destination = self._destinations.get(name)
        if destination is None:
            for file in files:
                self._not_accepted(file, f"{name} is not among --return any more")
            return False
        kinds: dict[Path, Kind] = {}
        for file in files:
            try:
                kinds[file] = _kind(file)
            except FileNotFoundError:  # its series was withdrawn meanwhile
                continue
            except Exception as error:  # whatever it is, it concerns this object
                self._not_accepted(file, f"it cannot be read ({type(error).__name__})")
        if not kinds:
            return False
        association = self._associate(destination, kinds.values())
        if association is None or not association.is_established:
            self._unreachable.setdefault(name, _Pause(self.options.retry)).longer()
            logger.warning(
                "%s does not take an association; its results wait",
                destination,
                extra={"event": "unreachable", "destination": str(destination)},
            )
            for file in kinds:
                self._give_up_if_due(file, f"{destination} took no association")
            return False
        self._unreachable.pop(name, None)
        self._association = association
        try:
            accepted = [self._send_one(association, file, kind) for file, kind in kinds.items()]
            return any(accepted)
        finally:
            self._association = None
            if association.is_established:
                association.release()

    def _send_one(self, association: Association, file: Path, kind: Kind) -> bool:
        """Send one object, unless its series was withdrawn; True if it was accepted."""
        key = _key(file)
        with self._lock:
            ended = self._ended.is_set() or not association.is_established
            if ended or key not in self._waiting:
                return False
            self._sending = key
        try:
            return self._send(association, file, kind)
        finally:
            with self._lock:
                self._sending = ""

    def _associate(self, destination: Destination, kinds: Iterable[Kind]) -> Association | None:
        """An association for objects of these kinds; None where there can be none.

        With the verification of connections, which every archive takes: one that takes none of the
        kinds is reached nevertheless, and refuses the objects. What is not compressed is offered in
        implicit VR too (PS3.5, 10.1).
        """
        wanted = dict.fromkeys(
            (sop_class, each)
            for sop_class, syntax in kinds
            for each in (
                (syntax, ImplicitVRLittleEndian) if syntax == ExplicitVRLittleEndian else (syntax,)
            )
        )
        try:
            contexts = [build_context(*each) for each in wanted]
            return self.entity.associate(
                destination.host,
                destination.port,
                contexts=[*contexts, build_context(VERIFICATION)],
                ae_title=destination.aet,
                max_pdu=PDU_BYTES,
                tls_args=(self._tls, destination.host) if self._tls else None,
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, lambda event: guard(event.assoc, self.options.idle_seconds))
                ],
            )
        except (OSError, RuntimeError) as error:  # such as a name that has no address
            logger.debug("no association: %s", type(error).__name__)
            return None

    def _send(self, association: Association, file: Path, kind: Kind) -> bool:
        taken = [
            (cx.abstract_syntax, cx.transfer_syntax[0]) for cx in association.accepted_contexts
        ]
        try:
            with silence_pydicom:
                # The bytes of the file, or else encoded anew as the archive takes it.
                content = file if kind in taken else dcmread(file)
                status = association.send_c_store(content).get("Status")
        except ValueError:  # in a form that pynetdicom says in many words
            self._not_accepted(file, "its kind of object is not taken")
            return False
        except Exception as error:  # whatever it is, it concerns this object
            self._not_accepted(file, f"sending it stopped with {type(error).__name__}")
            return False
        # A warning (0xBxxx) is of an object that was stored; a duplicate is there already.
        if status is not None and (status in (0, DUPLICATE) or 0xB000 <= status <= 0xBFFF):
            with self._forgetting(file):
                file.unlink()
                sync(file.parent)
            self.metrics.objects.labels("returned").inc()
            return True
        why = "no answer came" if status is None else f"it is refused with status 0x{status:04X}"
        self._not_accepted(file, why)
        return False

    @contextmanager
    def _forgetting(self, file: Path) -> Iterator[None]:
        """Forget an object that the block removes from its place; if it cannot, try it later."""
        try:
            yield
        except OSError as error:
            logger.warning("a result that is done cannot be moved: %s", error.strerror)
            self._refused.setdefault(file, _Pause(self.options.retry)).longer()
        with self._lock:
            if file.exists():
                return
            self._refused.pop(file, None)
            if file in self._waiting.get(_key(file), ()):
                self._waiting[_key(file)].remove(file)

    def _not_accepted(self, file: Path, why: str) -> None:
        """Try an object again later, or give it up."""
        self._refused.setdefault(file, _Pause(self.options.retry)).longer()
        self.metrics.objects.labels("retried").inc()
        logger.warning("a result is not accepted: %s", why, extra={"event": "not_accepted"})
        self._give_up_if_due(file, why)

    def _give_up_if_due(self, file: Path, why: str) -> None:
        key = _key(file)
        facts = read_json(self.spool.folder("returning", key) / SERIES)
        measured = datetime.fromisoformat(str(facts.get("measured", now_text())))
        hours = (datetime.now(UTC) - measured).total_seconds() / 3600
        if hours < self.options.give_up_hours:
            return
        name = f"{UNRETURNED}-{key}-{digest(file.parent.name, file.name)[:8]}"
        with self._forgetting(file), self._lock:
            if key not in self._waiting:  # it was withdrawn
                return
            self.spool.bury_result(file, name, f"{file.parent.name}: {why}")
        if file.exists():
            return
        self.metrics.objects.labels("dead").inc()
        logger.error("a result is given up: %s", why, extra={"event": "result_given_up"})


def _key(file: Path) -> str:
    """The series of an object that waits."""
    return file.parent.parent.parent.name


def _kind(file: Path) -> Kind:
    """SOP class and transfer syntax of an object."""
    meta = read_file_meta_info(file)
    return meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID
