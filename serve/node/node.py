"""The node as a whole: it listens, measures what is complete, and returns the results."""

import ctypes
import ipaddress
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module

from wsseg.imaging.errors import WssegError, lines_of
from wsseg.imaging.files import lock_output
from wsseg.serve.engines.base import Engine
from wsseg.serve.node.arrivals import Arrivals
from wsseg.serve.node.health import serve_health
from wsseg.serve.node.measuring import Measurer
from wsseg.serve.node.metrics import Metrics
from wsseg.serve.node.options import NodeOptions, check_node
from wsseg.serve.node.sender import Sender
from wsseg.serve.node.server import Receiver
from wsseg.serve.node.spool import DEAD, FULL_DISK, GIB, LATE, STATES, Limits, Spool
from wsseg.serve.options import InferOptions

TICK_SECONDS = 0.05
GAUGE_SECONDS = 2.0
KEEPING_SECONDS = 10.0
COMPLAINT_SECONDS = 60.0
FAULT_SECONDS = 10.0
"""The pause of returning after an error of its own."""
STUCK_SECONDS = 1800.0
"""A node whose measuring has shown no sign of life for so long is not alive."""
CLOSING_SECONDS = 5.0
"""What open associations are given to end when the node stops."""
_MMAP_THRESHOLD, _LARGE = -3, 1 << 20
"""A parameter of mallopt in glibc, and the bytes from which on an array is mapped by itself."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ports:
    """The ports that a node really listens to; http is None without health and metrics."""

    dicom: int
    http: int | None


class Node:
    """Receives, measures and returns until it is told to stop."""

    def __init__(
        self, options: NodeOptions, measuring: InferOptions, engine: Callable[[], Engine]
    ) -> None:
        """Engine: gives the engine of the model in `measuring`, the same one each time."""
        check_node(options)
        self.options = options
        self.metrics = Metrics()
        self._ended = threading.Event()
        self.spool = Spool(
            options.spool,
            Limits(int(options.max_spool_gb * GIB), int(options.min_free_gb * GIB)),
        )
        self.arrivals = Arrivals(options.settle, options.settle_released)
        self.sender = Sender(options, self.spool, self.metrics, self._ended)
        self.receiver = Receiver(options, self.spool, self.arrivals, self.metrics)
        self.measurer = Measurer(options, measuring, self.spool, self.metrics, engine)
        self.engine = engine
        self._alive = time.monotonic()
        self._accepting = False
        self._sending: threading.Thread | None = None
        self._counted = self._swept = self._complained = -math.inf

    def run(
        self, stop: threading.Event, on_ready: Callable[[Ports], object] = lambda _: None
    ) -> None:
        """Work until `stop` is set; then finish the series at hand.

        on_ready: called once the node listens. Raises WssegError, before it listens, for options,
        ports and files that cannot be used, and for a spool that another node has. Raises
        EngineGoneError if the engine ended and cannot be started again: what the spool holds waits.
        """
        _free_to_the_system()
        with ExitStack() as stack:
            try:  # for the owner alone: it holds images of patients
                self.spool.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise WssegError(
                    f"the spool {self.spool.root} cannot be made ({error.strerror}): name another "
                    "folder by --spool"
                ) from error
            busy = f"another node has the spool {self.spool.root}: choose another --spool"
            stack.enter_context(lock_output(self.spool.root / "node", busy))
            import_module("highdicom")  # which makes the results: told now, and not with each
            self.spool.open()
            self._recover()
            self.engine()  # now, so that what is wrong with it is told at once
            port = self.receiver.start()
            stack.callback(self.receiver.abort)
            stack.callback(self._close)
            http = self._serve_health(stack)
            sending = threading.Thread(target=self._send, name="wsseg-return", daemon=True)
            sending.start()
            self._sending = sending
            stack.callback(self._join, sending)
            stack.callback(self._end)
            self._await_the_rest()
            self._accepting = True
            self._tell(port, http)
            on_ready(Ports(port, http))
            while not stop.is_set():
                if not self._step(stop):
                    stop.wait(TICK_SECONDS)

    def _recover(self) -> None:
        """Go on with all that an earlier process did not finish."""
        self.measurer.recover()
        for key in self.spool.keys("returning"):
            self.sender.add(key)

    def _await_the_rest(self) -> None:
        """Series in the inbox are arriving again, now that their senders can connect."""
        for key in self.spool.keys("inbox"):
            self.arrivals.came(key)

    def _serve_health(self, stack: ExitStack) -> int | None:
        options = self.options
        if options.http_port is None:
            return None
        port, stop = serve_health(
            options.http_host,
            options.http_port,
            self.metrics.registry,
            alive=self.fault,
            ready=self.unready,
        )
        stack.callback(stop)
        return port

    def _tell(self, port: int, http: int | None) -> None:
        options = self.options
        logger.info(
            "%s listens on %s port %d",
            options.aet,
            options.host,
            port,
            extra={"event": "listening", "port": port, "http_port": http},
        )
        try:
            local = ipaddress.ip_address(options.host).is_loopback
        except ValueError:
            local = options.host == "localhost"
        if not (local or options.allow_from or (options.tls_cert and options.tls_ca)):
            logger.warning(
                "every machine that reaches %s may store here: --allow-from or TLS with --tls-ca "
                "limits who may",
                options.host,
            )

    def fault(self) -> str:
        """Why the process should be started anew; "" if it works."""
        if self._sending and not self._sending.is_alive():
            return "nothing is returned any more"
        if self._accepting and not self.receiver.accepts:
            return "nothing is accepted any more"
        silent = time.monotonic() - self._alive
        return f"no sign of life for {silent:.0f} s" if silent > STUCK_SECONDS else ""

    def unready(self) -> str:
        """Why no instance would be accepted now; "" if it would."""
        return self.spool.lacks() if self._accepting else "not accepting"

    def _live(self, *_: float) -> None:
        self._alive = time.monotonic()

    @contextmanager
    def _tolerated(self) -> Iterator[None]:
        """A full disk or the like is no end: what it stops is tried again, and the rest goes on."""
        try:
            yield
        except OSError as error:
            if time.monotonic() - self._complained > COMPLAINT_SECONDS:
                self._complained = time.monotonic()
                logger.warning(
                    "the spool cannot be written (%s): what it holds waits",
                    error.strerror,
                    extra={"event": "spool_failed"},
                )

    def _step(self, stop: threading.Event) -> bool:
        """Do what is due; True if there may be more to do at once."""
        self._live()
        for key in self.spool.keys("measured"):
            with self._tolerated():
                self.measurer.publish(key)
                self.sender.add(key)
        for key in self.arrivals.complete():
            with self._tolerated():
                self._pass_on(key)
        with self._tolerated():
            self._count()
            self._sweep()
        # Its results would find no space.
        due = None if self.spool.lacks() == FULL_DISK else self.measurer.next()
        if due is None or stop.is_set():
            return False
        with self._tolerated():
            self.measurer.measure(due, self._live)
            return True
        return False

    def _pass_on(self, key: str) -> None:
        """Pass a series that is complete on to be measured."""
        if not self.sender.withdraw(key):
            return
        try:
            # First, so that an instance that comes just now is not forgotten.
            self.arrivals.forget(key)
            self.measurer.forget(key)
            state = self.spool.complete(key)
            if state == "busy":
                self.arrivals.came(key)
            elif state == "late":
                self.metrics.series.labels("late").inc()
                reason = (
                    "these instances came when others of their series had been measured and "
                    "removed: send the whole series again"
                )
                logger.warning("a series is put aside: %s", reason, extra={"event": "series_late"})
                self.spool.bury(self.spool.folder("inbox", key), f"{LATE}-{key}", reason)
        except OSError:
            self.arrivals.came(key)
            raise
        finally:
            self.sender.add(key)  # if it still has results to return

    def _count(self) -> None:
        if time.monotonic() - self._counted < GAUGE_SECONDS:
            return
        self._counted = time.monotonic()
        for state in STATES:
            self.metrics.queue.labels(state).set(self.spool.count(state))
        self.metrics.queue.labels(DEAD).set(self.spool.count(DEAD))
        self.metrics.held.set(self.spool.nbytes)

    def _sweep(self) -> None:
        """Remove the instances that were kept long enough after their results were returned."""
        if time.monotonic() - self._swept < min(KEEPING_SECONDS, self.options.keep_hours * 3600):
            return
        self._swept = time.monotonic()
        self.spool.sweep(self.options.keep_hours * 3600)

    def _send(self) -> None:
        while not self._ended.is_set():
            try:
                sent = self.sender.step()
            except Exception as error:  # whatever it was, the next series must still be returned
                logger.warning(
                    "returning stopped with %s, and goes on",
                    type(error).__name__,
                    extra={"event": "sender_bug"},
                )
                logger.debug("%s", lines_of(error))
                self._ended.wait(FAULT_SECONDS)
                continue
            if not sent:
                self._ended.wait(TICK_SECONDS)

    def _end(self) -> None:
        self._accepting = False
        self._ended.set()

    def _join(self, sending: threading.Thread) -> None:
        """Wait for the object that is being sent: the next node must not send it as well."""
        sending.join(CLOSING_SECONDS)
        self.sender.abort()
        sending.join()

    def _close(self) -> None:
        """Take no more associations, and let those that are open end by themselves for a moment."""
        self.receiver.stop()
        end = time.monotonic() + CLOSING_SECONDS
        while self.receiver.associations and time.monotonic() < end:
            time.sleep(TICK_SECONDS)


def _free_to_the_system() -> None:
    """Have glibc map large arrays one by one, so that they go back to the system when freed.

    By itself it raises the threshold to the sizes that it sees freed, and puts the pixels of a
    series into the heaps that it has for threads. Each series has threads of its own, and what is
    at the end of such a heap stays taken, whatever `malloc_trim` does.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
