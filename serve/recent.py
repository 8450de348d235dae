"""Slices that were met a while ago, to be told from new ones."""

from collections import OrderedDict

from wsseg.serve.jobs import Slot

# Of the objects that make one answer, without its label map; rounded up.
ANSWER_BYTES = 1024


class Recent:
    """The slices that were last met, by their digests, with what is or will be answered for them.

    Kept up to `nbytes`, counted by sizes alone: the same slices in the same order are remembered
    in the same way, however fast the engine is.
    """

    def __init__(self, nbytes: int) -> None:
        self._left = nbytes
        self._slots: OrderedDict[bytes, tuple[Slot, int]] = OrderedDict()

    def find(self, digest: bytes) -> Slot | None:
        """The slice with this digest, and from now on the last one to be forgotten."""
        if digest not in self._slots:
            return None
        self._slots.move_to_end(digest)
        return self._slots[digest][0]

    def add(self, slot: Slot, label_bytes: int) -> None:
        """Remember a slice, whose packed label map has so many bytes; the oldest make room."""
        size = ANSWER_BYTES + label_bytes
        self._slots[slot.digest] = (slot, size)
        self._left -= size
        while self._left < 0:
            _, (_, freed) = self._slots.popitem(last=False)
            self._left += freed

    def forget(self, slot: Slot) -> None:
        """Let the next slice that equals this one be computed."""
        known = self._slots.get(slot.digest)
        if known and known[0] is slot:
            self._left += self._slots.pop(slot.digest)[1]
