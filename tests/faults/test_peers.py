"""Whatever a peer of the DICOM node sends, it ends its own association and nothing else."""

from collections.abc import Iterator

import pytest

from bench.reliability.fuzz.peer import Peer, node_seeds
from wsseg.serve.node.spool import PARTIAL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


def test_what_comes_before_its_time_is_damaged_or_is_nothing_ends_no_thread(peer: Peer):
    sound = list(node_seeds(peer))
    for data in sound:
        peer.send(data)
        peer.send(data[: len(data) * 2 // 3])
        damaged = bytearray(data)
        for at in range(4, len(data), 23):
            damaged[at] ^= 0x10
        peer.send(bytes(damaged))
    for nothing in (b"", b"\0", b"\1", b"\2", b"\0GET / HTTP/1.1\r\n\r\n", b"\1" + b"\xff" * 40):
        peer.send(nothing)
    peer.check_answers()
    assert not list((peer.spool.root / PARTIAL).iterdir())
