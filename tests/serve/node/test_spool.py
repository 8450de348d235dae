"""The spool: names that stay in it, and states that survive any end of the process."""

import errno
import json
import os
import threading
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.serve.conftest import make_manifest
from wsseg.serve.node.arrivals import Arrivals
from wsseg.serve.node.intake import Intake
from wsseg.serve.node.measuring import ATTEMPTS, MOST_DEATHS, MOST_FAILURES, Measurer
from wsseg.serve.node.metrics import Metrics
from wsseg.serve.node.node import Node
from wsseg.serve.node.options import Destination, NodeOptions
from wsseg.serve.node.server import Receiver
from wsseg.serve.node.spool import INSTANCES, Limits, Spool, digest
from wsseg.serve.options import InferOptions
from wsseg.serve.report import report_paths


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    found = Spool(tmp_path / "spool", Limits(1 << 30, 0))
    found.root.mkdir()
    found.open()
    return found


def measurer(spool: Spool, **options: Any) -> Measurer:
    def no_engine() -> Any:
        raise AssertionError("nothing is measured here")

    return Measurer(
        NodeOptions(spool=spool.root, **options),
        InferOptions(model=Path(make_manifest().name)),
        spool,
        Metrics(),
        no_engine,
    )


def store(spool: Spool, key: str, name: str, content: bytes = b"x") -> bool:
    file = spool.scratch()
    file.write_bytes(content)
    stored = spool.store(file, key, f"{name}.dcm")
    file.unlink(missing_ok=True)
    return stored


@pytest.mark.parametrize("uid", ["1.2.3", "", "../../x", "/etc/passwd", "a\0b", "CON", "1" * 300])
def test_a_name_has_nothing_of_a_uid(uid: str):
    name = digest("1.2", uid)
    assert len(name) == 32
    assert name.isalnum()


def test_what_is_held_already_is_not_stored_again_in_any_state(spool: Spool):
    assert store(spool, "k", "1", b"first")
    assert not store(spool, "k", "1", b"other")
    assert spool.complete("k") == "ready"
    for before, after in (("ready", "measured"), ("measured", "returning"), ("returning", "done")):
        assert not store(spool, "k", "1")
        spool.move("k", before, after)  # type: ignore[arg-type]
    assert not store(spool, "k", "1")
    assert (spool.folder("done", "k") / INSTANCES / "1.dcm").read_bytes() == b"first"
    assert not spool.folder("inbox", "k").exists()


def test_instances_that_come_while_their_series_passes_on_are_neither_lost_nor_doubled(
    spool: Spool,
):
    def sender(number: int) -> None:
        for index in range(40):
            assert store(spool, "k", f"{number}-{index}")

    threads = [threading.Thread(target=sender, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        spool.complete("k")
    spool.complete("k")
    for thread in threads:
        thread.join()
    held = sorted(path.stem for path in spool.root.glob(f"*/k/{INSTANCES}/*"))
    assert held == sorted(f"{number}-{index}" for number in range(4) for index in range(40))
    assert not spool.folder("inbox", "k").exists()


def test_a_start_forgets_what_was_half_received_and_counts_what_is_held(spool: Spool):
    store(spool, "k", "1", b"x" * 5000)
    spool.scratch().write_bytes(b"half")
    again = Spool(spool.root, spool.limits)
    again.open()
    assert not list((spool.root / "partial").iterdir())
    assert again.nbytes == spool.nbytes == 8192
    again.discard(again.folder("inbox", "k"))
    assert again.nbytes == 0


def test_a_series_while_which_the_process_ended_again_and_again_is_given_up(spool: Spool):
    for key, begun in (("poison", MOST_DEATHS), ("unlucky", 1), ("new", 0)):
        store(spool, key, "1")
        spool.complete(key)
        attempts = {"begun": begun, "failed": 0}
        (spool.folder("ready", key) / ATTEMPTS).write_text(json.dumps(attempts))
    found = measurer(spool)
    found.recover()
    (reason,) = spool.root.glob("dead-letter/unmeasured-poison/reason.json")
    assert "ended 10 times" in json.loads(reason.read_text())["reason"]
    assert found.next() == "new"  # what may be the cause of an end comes after the others


@pytest.mark.parametrize("ends_before", ["tables", "objects", "move"])
def test_results_are_placed_as_a_whole_after_any_end(
    spool: Spool, ends_before: str, monkeypatch: pytest.MonkeyPatch
):
    store(spool, "k", "1")
    spool.complete("k")
    folder = spool.move("k", "ready", "measured")
    for table in report_paths(folder / "output" / "ratios.csv"):
        table.parent.mkdir(exist_ok=True)
        table.write_text("rows")
    for name in ("seg", "sr"):
        (folder / "output" / name).mkdir()
        (folder / "output" / name / "1.dcm").write_text(name)
    (folder / "series.json").write_text('{"measured": "2026-11-27T23:59:59+00:00"}')
    old = spool.root / "results" / "2026-11-20" / "k"
    old.mkdir(parents=True)

    class EndError(Exception):
        """The process ends."""

    def end(*_: object) -> None:
        raise EndError

    place = "wsseg.serve.node.measuring"
    targets = {
        "tables": (f"{place}.move_durably", end),
        "objects": (f"{place}.sync_tree", lambda path: end() if path.name == "out" else None),
        "move": ("wsseg.serve.node.spool.Spool.move", end),
    }
    found = measurer(spool, returns=("PACS@127.0.0.1:104",))
    with monkeypatch.context() as patch:
        patch.setattr(*targets[ends_before])
        with pytest.raises(EndError):
            found.publish("k")
    found.publish("k")
    (results,) = spool.root.glob("results/*/k")
    assert results.parent.name == "2026-11-27"
    assert len(list(results.iterdir())) == 4
    out = spool.folder("returning", "k") / "out" / "PACS@127.0.0.1_104"
    assert [path.name for path in sorted(out.iterdir())] == ["seg-1.dcm", "sr-1.dcm"]


def test_a_start_removes_series_of_the_inbox_that_have_no_instance_yet(spool: Spool):
    (spool.folder("inbox", "empty") / INSTANCES).mkdir(parents=True)
    store(spool, "k", "1")
    Spool(spool.root, spool.limits).open()
    assert spool.keys("inbox") == ["k"]


def test_a_repeated_instance_keeps_a_series_that_is_done(spool: Spool):
    store(spool, "k", "1")
    spool.complete("k")
    done = spool.move("k", "ready", "done")
    os.utime(done, (1, 1))
    assert not store(spool, "k", "1")
    spool.sweep(3600)
    assert done.exists()
    os.utime(done, (1, 1))
    spool.sweep(3600)
    assert not done.exists()


def test_a_result_that_is_given_up_is_never_gone(spool: Spool, monkeypatch: pytest.MonkeyPatch):
    file = spool.root / "returning" / "k" / "out" / "PACS" / "seg.dcm"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"result")
    for place in ("write_durably", "move_durably"):
        with monkeypatch.context() as patch:
            patch.setattr(f"wsseg.serve.node.spool.{place}", _full)
            with pytest.raises(OSError, match="full"):
                spool.bury_result(file, "unreturned-k", "refused")
        Spool(spool.root, spool.limits).open()  # as after a kill
        assert file.read_bytes() == b"result"
    spool.bury_result(file, "unreturned-k", "refused")
    (letter,) = (spool.root / "dead-letter").iterdir()
    assert (letter / "seg.dcm").read_bytes() == b"result"
    assert "refused" in (letter / "reason.json").read_text()
    file.write_bytes(b"of a later measurement")
    spool.bury_result(file, "unreturned-k", "refused")
    assert (letter / "seg.dcm").read_bytes() == b"result"
    assert len(list((spool.root / "dead-letter").iterdir())) == 2


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "full")


@pytest.mark.parametrize(
    ("limits", "given_up"), [(Limits(0, 0), True), (Limits(1 << 40, 1 << 60), False)]
)
def test_only_a_full_disk_is_no_fault_of_a_series(spool: Spool, limits: Limits, given_up: bool):
    store(spool, "k", "1")
    spool.complete("k")
    spool.limits = limits
    found = measurer(spool)
    for begun in range(1, MOST_FAILURES + 1):
        attempts = spool.folder("ready", "k") / ATTEMPTS
        earlier = json.loads(attempts.read_text()) if attempts.exists() else {"failed": 0}
        begins = earlier.get("begun", 0) + 1
        attempts.write_text(json.dumps({"begun": begins, "failed": earlier["failed"]}))
        assert begins <= begun
        found._failed("k", "damaged")
    assert bool(list(spool.root.glob("dead-letter/unmeasured-k"))) is given_up
    if not given_up:
        assert json.loads(attempts.read_text()) == {"begun": 0, "failed": 0}


@pytest.fixture
def receiver(spool: Spool) -> Receiver:
    options = NodeOptions(spool=spool.root)
    return Receiver(options, spool, Arrivals(settle=1e9, settle_released=0), Metrics())


def test_a_repeated_instance_is_a_sign_that_the_others_of_its_series_are_to_come(
    receiver: Receiver, spool: Spool
):
    class OneInstance(Intake):
        """An intake that has the first instance of series k each time."""

        def __init__(self) -> None:
            self.name = spool.scratch()
            self.name.write_bytes(b"x")

        def take(self, _name: str) -> Any:
            return SimpleNamespace(
                series=lambda: "k",
                named=SimpleNamespace(instance="1.2"),
                path=self.name,
                remove=lambda: None,
            )

    def event() -> Any:
        request = SimpleNamespace(DataSet=BytesIO(b"name"))
        return SimpleNamespace(assoc=SimpleNamespace(dimse=OneInstance()), request=request)

    first, again = event(), event()
    assert receiver._store(first) == receiver._store(again) == 0
    receiver.arrivals.ended(id(first.assoc), released=True)
    assert receiver.arrivals.complete() == []
    receiver.arrivals.ended(id(again.assoc), released=True)
    assert receiver.arrivals.complete() == ["k"]


def test_a_series_that_cannot_be_passed_on_has_its_results_returned(model: Path, tmp_path: Path):
    archive = Destination(aet="PACS", host="127.0.0.1", port=104)
    options = NodeOptions(spool=tmp_path / "spool", settle=0, returns=(archive,))
    made = Node(options, InferOptions(model=model), lambda: pytest.fail("nothing is measured"))
    made.spool.root.mkdir()
    made.spool.open()
    file = made.spool.folder("returning", "k") / "out" / "PACS@127.0.0.1_104" / "seg.dcm"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"result")
    made.sender.add("k")
    made.arrivals.came("k")  # of an instance that a step before has passed on
    assert not made._step(threading.Event())
    assert made.sender._waiting == {"k": [file]}
