"""Results return however long an archive is away, and what it refuses holds up nothing else."""

from pathlib import Path

import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from tests.serve.node.conftest import Archive, node, send, until, write_series

pytestmark = [
    pytest.mark.slow,
    # pynetdicom leaves a socket that the peer closed to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def waiting(spool: Path) -> list[Path]:
    return list(spool.glob("returning/*/out/*/*.dcm"))


def test_an_archive_that_is_down_gets_everything_later_and_after_a_restart(
    model: Path, tmp_path: Path
):
    archive = Archive().start()
    archive.stop()  # its port is free now
    spool, files = tmp_path / "spool", write_series(tmp_path, "later")
    returns = (f"PACS@127.0.0.1:{archive.port}",)
    with node(model, spool, returns=returns) as ports:
        send(ports.dicom, files)
        until(lambda: len(waiting(spool)) == 2, "results")
    with node(model, spool, returns=returns):
        archive.start()
        until(lambda: len(archive.got) == 2, "results")
        until(lambda: list(spool.glob("done/*")), "the end")
    archive.stop()
    assert not waiting(spool)
    assert len(archive.got) == 2


def test_a_refused_result_is_sent_again_and_given_up_with_the_reason(model: Path, tmp_path: Path):
    taking, refusing = Archive().start(), Archive().start()
    refusing.answers = [0xA700, 0, 0xC123] + [0xC123] * 1000
    spool, files = tmp_path / "spool", write_series(tmp_path, "refused")
    returns = tuple(f"PACS@127.0.0.1:{each.port}" for each in (taking, refusing))
    with node(model, spool, returns=returns, give_up_hours=2 / 3600, retry=0.05) as ports:
        send(ports.dicom, files)
        (letter,) = until(lambda: list(spool.glob("dead-letter/*")), "a dead letter")
        until(lambda: list(spool.glob("done/*")), "the end")
    taking.stop()
    refusing.stop()
    assert len(taking.got) == 2
    assert len(refusing.got) == 1
    assert letter.name.startswith("unreturned-")
    assert "0xC123" in (letter / "reason.json").read_text()
    assert len(list(letter.glob("*.dcm"))) == 1


def test_results_for_a_destination_that_was_taken_away_are_given_up(model: Path, tmp_path: Path):
    archive = Archive().start()
    archive.stop()
    spool, files = tmp_path / "spool", write_series(tmp_path, "away")
    with node(model, spool, returns=(f"PACS@127.0.0.1:{archive.port}",)) as ports:
        send(ports.dicom, files)
        until(lambda: len(waiting(spool)) == 2, "results")
    with node(model, spool, give_up_hours=0):
        until(lambda: list(spool.glob("done/*")), "the end")
    reasons = [path.read_text() for path in spool.glob("dead-letter/*/reason.json")]
    assert len(reasons) == 2
    assert all("not among --return" in reason for reason in reasons)


def test_an_archive_of_implicit_vr_alone_gets_the_results_encoded_anew(model: Path, tmp_path: Path):
    archive = Archive(syntax=ImplicitVRLittleEndian).start()
    spool, files = tmp_path / "spool", write_series(tmp_path, "implicit")
    with node(model, spool, returns=(f"PACS@127.0.0.1:{archive.port}",)) as ports:
        send(ports.dicom, files)
        until(lambda: list(spool.glob("done/*")), "the end")
        (seg,) = spool.glob("done/*/output/seg/*.dcm")
        kept = pydicom.dcmread(seg)
    archive.stop()
    (got,) = [each for each in archive.got if each.SOPClassUID == kept.SOPClassUID]
    assert len(archive.got) == 2
    assert got.PixelData == kept.PixelData
    del got.PixelData, kept.PixelData  # of which implicit VR has another kind of bytes
    assert got == kept


def test_an_archive_that_takes_no_kind_of_a_result_is_no_archive_that_is_away(
    model: Path, tmp_path: Path
):
    archive = Archive(kinds=(Verification,)).start()
    spool, returns = tmp_path / "spool", (f"PACS@127.0.0.1:{archive.port}",)
    with node(model, spool, returns=returns, give_up_hours=0) as ports:
        send(ports.dicom, write_series(tmp_path, "untaken"))
        until(lambda: list(spool.glob("done/*")), "the end")
    archive.stop()
    reasons = [path.read_text() for path in spool.glob("dead-letter/*/reason.json")]
    assert len(reasons) == 2
    assert all("its kind of object is not taken" in reason for reason in reasons)
