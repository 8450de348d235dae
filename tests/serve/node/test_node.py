"""`wsseg listen`: what is sent is stored, measured and returned."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.serve.conftest import rows
from tests.serve.node.conftest import Archive, node, send, until, write_series
from wsseg.serve.node.node import Ports

pytestmark = pytest.mark.slow


class Running(NamedTuple):
    ports: Ports
    spool: Path
    archive: Archive


@pytest.fixture(scope="module")
def running(
    model: Path, archive: Archive, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    spool = tmp_path_factory.mktemp("node") / "spool"
    with node(model, spool, returns=(f"PACS@127.0.0.1:{archive.port}",), http_port=0) as ports:
        yield Running(ports, spool, archive)


def tables(spool: Path) -> list[Path]:
    return sorted(spool.glob("results/*/*/ratios.csv"))


def test_a_series_is_measured_and_its_results_return(running: Running, tmp_path: Path):
    files = write_series(tmp_path, "returned")
    assert send(running.ports.dicom, files) == [0, 0, 0]
    got = until(lambda: len(found := running.archive.of(files)) == 2 and found, "SEG and SR")
    assert [each.Modality for each in got] == ["SEG", "SR"]
    table = until(lambda: tables(running.spool), "a table")[-1]
    assert len(rows(table)) == 9
