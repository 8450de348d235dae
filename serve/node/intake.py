"""The network's side of receiving: nothing that a peer sends takes more memory than a PDU.

pynetdicom reads a PDU of whatever length its header states, waits for its end without a limit, and
gathers a data set in memory. Here a PDU is bounded in size and time, and a data set goes to a file
as it comes.
"""

import logging
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydicom.uid import UID
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.pdu_primitives import P_DATA

from wsseg.serve.node.instance import Arrival, Named

if TYPE_CHECKING:
    from pynetdicom.association import Association

PDU_BYTES = 1 << 17
"""The largest PDU of data that a peer is told to send."""
MOST_PDU_BYTES = 1 << 20
"""The largest PDU that is read; a request for an association has a list of a hundred contexts."""
MOST_COMMAND_BYTES = 1 << 16
"""Of a command, and of a data set that is no instance."""
MOST_WAITING = 4
"""Instances of an association that are whole and not yet answered; a peer should wait for each."""

_COMMAND, _LAST = 1, 2

logger = logging.getLogger(__name__)


def guard(association: "Association", seconds: float) -> None:
    """Bound what is read from the peer of an association, and how long it may take for a PDU.

    What the library does not expect in its state, such as a release before an answer to the request
    of an association, ends the association and not, with a traceback, its thread.
    """
    transport = association.dul.socket
    if transport is None or transport.socket is None:
        return
    stream = transport.socket
    stream.settimeout(seconds)

    def receive(nr_bytes: int) -> bytearray:
        if nr_bytes > MOST_PDU_BYTES:
            raise OSError(f"a PDU of {nr_bytes} bytes is refused")
        return _received(stream, nr_bytes, seconds)

    transport.recv = receive  # type: ignore[method-assign]
    act = association.dul.state_machine.do_action

    def act_or_end(event: str) -> None:
        try:
            act(event)
        except Exception as error:
            logger.warning(
                "an association is aborted: %s stopped with %s",
                event,
                type(error).__name__,
                extra={"event": "association_aborted"},
            )
            association.dul.kill_dul()
            transport.close()

    association.dul.state_machine.do_action = act_or_end  # type: ignore[method-assign]


def free_at_end(association: "Association") -> None:
    """Let an association end with its connection.

    Where one is closed before it asks for an association, as probes of a port do, the thread of the
    association would wait for that, and hold its place, until its time is out.
    """
    run = association.dul.run

    def running() -> None:
        try:
            run()
        finally:
            association.dul.to_user_queue.put(None)

    association.dul.run = running  # type: ignore[method-assign]


def _received(stream: socket.socket, count: int, seconds: float) -> bytearray:
    """So many bytes, or fewer if the peer closes; TimeoutError if it takes too long."""
    content = bytearray(count)
    view = memoryview(content)
    got, end = 0, time.monotonic() + seconds
    while got < count:
        if time.monotonic() > end:
            raise TimeoutError("the peer is too slow")
        read = stream.recv_into(view[got:])
        if not read:
            break
        got += read
    view.release()
    del content[got:]
    return content


class Intake(DIMSEServiceProvider):
    """Takes the messages of a peer; data sets of C-STORE go to an `Arrival` each.

    The library gets the name of the arrival in place of the data set, and passes it to the handler
    of the event, which asks for it by `take`.
    """

    def __init__(
        self, association: "Association", begin: Callable[[Named], Arrival], most: int
    ) -> None:
        super().__init__(association)
        self._begin = begin
        self._most = most
        self._arrival: Arrival | None = None
        self._waiting: dict[str, Arrival] = {}
        self._other = 0

    def take(self, name: str) -> Arrival | None:
        """The arrival with this name, once; None if it was dropped."""
        return self._waiting.pop(name, None)

    def drop(self) -> None:
        """Forget what has not been answered; its files are removed."""
        arrivals = [*self._waiting.values(), *([self._arrival] if self._arrival else [])]
        self._waiting, self._arrival = {}, None
        for arrival in arrivals:
            arrival.drop()

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Process the fragments of messages in a P-DATA primitive."""
        for context, fragment in primitive.presentation_data_value_list:
            try:
                fault = self._fault(context, fragment) or self._take_in(context, fragment)
            except Exception as error:  # what the library raises on a damaged command
                fault = f"stopped with {type(error).__name__}"
            if fault:
                logger.warning(
                    "an association is aborted: %s", fault, extra={"event": "association_aborted"}
                )
                self.drop()
                self.dul.event_queue.put("Evt19")  # an invalid PDU
                return

    def _fault(self, context: int, fragment: bytes) -> str:
        """Why a fragment cannot be taken; "" if it can."""
        if not fragment or context not in self.assoc._accepted_cx:
            return "a fragment has no content or no accepted context"
        if fragment[0] & _COMMAND:
            if self._arrival:
                return "a command within a data set"
            self._other += len(fragment)
        elif self._arrival is None:
            if self.message is None:
                return "a data set without a command"
            self._other += len(fragment)
        elif self._arrival.received > 2 * self._most:
            return "an instance has no end"
        return "a command has no end" if self._other > MOST_COMMAND_BYTES else ""

    def _take_in(self, context: int, fragment: bytes) -> str:
        """Take a fragment that is in order; returns why its message cannot be taken, or ""."""
        last = fragment[0] & _LAST
        if self._arrival is None:
            self._pass_on(context, fragment)
            if self.message is None:
                self._other = 0
            elif fragment[0] & _COMMAND and last and isinstance(self.message, C_STORE_RQ):
                command = self.message.command_set
                syntax = self.assoc._accepted_cx[context].transfer_syntax[0]
                self._arrival = self._begin(
                    Named(
                        UID(command.AffectedSOPClassUID),
                        UID(command.AffectedSOPInstanceUID),
                        syntax,
                    )
                )
                self._other = 0
            return ""
        self._arrival.write(memoryview(fragment)[1:])
        if last:
            arrival, self._arrival = self._arrival, None
            arrival.finish()
            if len(self._waiting) >= MOST_WAITING:
                arrival.remove()
                return "instances are sent without waiting for answers"
            self._waiting[arrival.path.name] = arrival
            self._pass_on(context, bytes([_LAST]) + arrival.path.name.encode())
        return ""

    def _pass_on(self, context: int, fragment: bytes) -> None:
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context, fragment))
        super().receive_primitive(primitive)
