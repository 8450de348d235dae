"""Many callers at once, and kills at random moments: what a node loses, and what memory it takes.

    python -m bench.reliability.node [--associations 4] [--instances 200] [--rounds 5] [--kills 20]

The node is `wsseg listen` as a process of its own, with a model that thresholds. In each round
every caller, a process of its own, sends a series in one association, all at once. The memory of
the node is printed after each round: it is flat if it does not grow from one to the next. Then the
node is killed by SIGKILL at moments drawn at random, while callers send what was not acknowledged
until everything was.
"""

import argparse
import csv
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from bench.markdown import table
from bench.reliability.scans import write_model
from bench.timing import where
from tests.imaging.conftest import _write_dicom
from tests.serve.conftest import RATIOS_PER_SLICE, picture

PATIENCE = 600.0
SHORTEST, LONGEST = 0.1, 3.0
"""Seconds after which a node is killed, counted from when it listens."""


def main() -> None:
    """Print what was lost, and the memory of the node."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--associations", type=int, default=4)
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args()
    print(where())
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(given.associations, mp_context=get_context("spawn")) as callers,
    ):
        model = write_model(Path(folder, "model"))
        print(
            f"\n{given.associations} associations at once, {given.instances} instances of "
            f"{given.side} x {given.side} in each:\n"
        )
        print("\n".join(at_once(Path(folder, "once"), model, callers, given)))
        print(f"\n{given.kills} kills at random moments:\n")
        print("\n".join(killed(Path(folder, "killed"), model, callers, given)))


def at_once(
    folder: Path, model: Path, callers: ProcessPoolExecutor, given: argparse.Namespace
) -> Iterator[str]:
    """The table of rounds."""
    rows = []
    with listening(folder / "spool", model) as (process, port):
        for number in range(given.rounds + 1):
            series = [
                write(folder / "scans" / f"{number}-{at}", given.instances, given.side)
                for at in range(given.associations)
            ]
            begun = time.monotonic()
            results = [callers.submit(send, port, files) for files in series]
            peak = 0.0
            while not all(each.done() for each in results):
                peak = max(peak, memory(process.pid, "VmRSS"))
                time.sleep(0.05)
            seconds = time.monotonic() - begun
            sent = [file for files in series for file in files]
            acknowledged = sum(len(each.result()) for each in results)
            wait_for(folder / "spool", (number + 1) * given.associations)
            lost, doubled = compared(folder / "spool", sent)
            if number:  # the first one fills what is filled once
                cells = [acknowledged, lost, doubled, f"{seconds:.1f}", f"{peak:.0f}"]
                kinds = ("VmRSS", "RssAnon", "RssShmem")
                after = [f"{memory(process.pid, kind):.0f}" for kind in kinds]
                rows.append([str(number), *map(str, cells), *after])
            for file in sent:
                file.unlink()
    header = (
        "round",
        "acknowledged",
        "lost",
        "doubled",
        "seconds to send",
        "peak MB while sending",
        "MB after measuring",
        "anonymous",
        "shared with the engine",
    )
    return table(header, rows)


def killed(
    folder: Path, model: Path, callers: ProcessPoolExecutor, given: argparse.Namespace
) -> Iterator[str]:
    """The table of kills."""
    draw = random.Random(0)
    series = [write(folder / "scans" / str(at), 20, 64) for at in range(3 * given.associations)]
    left = [list(files) for files in series]
    for _ in range(given.kills):
        with listening(folder / "spool", model) as (process, port):
            results = [callers.submit(send, port, files) for files in left]
            time.sleep(draw.uniform(SHORTEST, LONGEST))
            process.kill()
            process.wait()
            done = [set(each.result()) for each in results]
        left = [
            [file for file in files if file not in taken]
            for files, taken in zip(left, done, strict=True)
        ]
    with listening(folder / "spool", model) as (_, port):
        for files in left:
            send(port, files)
        wait_for(folder / "spool", len(series))
    lost, doubled = compared(folder / "spool", [file for files in series for file in files])
    dead = len(list((folder / "spool" / "dead-letter").iterdir()))
    return table(
        ("kills", "instances", "lost", "doubled", "given up"),
        [[str(each) for each in (given.kills, sum(map(len, series)), lost, doubled, dead)]],
    )


@contextmanager
def listening(spool: Path, model: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """`wsseg listen` as a process of its own, and its port."""
    spool.parent.mkdir(parents=True, exist_ok=True)
    log = spool.with_name(f"{time.monotonic_ns()}.log")
    command = [sys.executable, "-c", "from wsseg.cli.main import main; main()", "listen"]
    command += ["--model", str(model), "--spool", str(spool), "--port", "0", "--json-log"]
    command += ["--device", "cpu", "--settle", "2", "--settle-released", "0.5"]
    with log.open("wb") as stream, subprocess.Popen(command, stderr=stream) as process:
        end = time.monotonic() + PATIENCE
        port = 0
        while not port and time.monotonic() < end and process.poll() is None:
            lines = [line for line in log.read_text().splitlines() if line.endswith("}")]
            found = (each for each in map(json.loads, lines) if each.get("event") == "listening")
            port = next((each["port"] for each in found), 0)
            time.sleep(0.02)
        if not port:
            raise AssertionError(f"the node does not listen: {log.read_text()}")
        try:
            yield process, port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)


def send(port: int, files: Sequence[Path]) -> list[Path]:
    """Send files in one association; returns those that were acknowledged."""
    from pynetdicom import AE

    entity = AE(ae_title="BENCH")
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title="WSSEG") if files else None
    taken = []
    for file in files:
        if association is None or not association.is_established:
            break
        with suppress(RuntimeError):  # the node was killed just now
            if association.send_c_store(pydicom.dcmread(file)).get("Status") == 0:
                taken.append(file)
    if association is not None and association.is_established:
        association.release()
    return taken


def write(folder: Path, count: int, side: int) -> list[Path]:
    """A series with UIDs of its own."""
    return [
        _write_dicom(
            folder / f"{index}.dcm",
            np.asarray(picture(index % 30, (side, side)), np.int16) + index,
            Rows=side,
            Columns=side,
            SeriesInstanceUID=generate_uid(entropy_srcs=[str(folder)]),
            StudyInstanceUID=generate_uid(entropy_srcs=[str(folder), "study"]),
            SOPInstanceUID=generate_uid(entropy_srcs=[f"{folder}/{index}"]),
            ImagePositionPatient=[0.0, 0.0, 2.0 * index],
        )
        for index in range(count)
    ]


def wait_for(spool: Path, count: int) -> None:
    """Wait until so many series are done or given up, and none is on its way."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        on_the_way = sum(
            len(list((spool / state).iterdir()))
            for state in ("inbox", "ready", "measured", "returning")
        )
        if not on_the_way and len(list(spool.glob("results/*/*"))) >= count:
            return
        time.sleep(0.1)
    raise AssertionError(f"{count} series were not done in time")


def compared(spool: Path, files: Sequence[Path]) -> tuple[int, int]:
    """Instances whose rows are missing, and those that have more rows than they should."""
    found: Counter[str] = Counter()
    for path in spool.glob("results/*/*/ratios.csv"):
        with path.open(newline="", encoding="utf-8") as stream:
            found.update(row["instance_uid"] for row in csv.DictReader(stream))
    uids = [pydicom.dcmread(file, specific_tags=["SOPInstanceUID"]) for file in files]
    counts: list[Any] = [found[each.SOPInstanceUID] for each in uids]
    return (
        sum(count < RATIOS_PER_SLICE for count in counts),
        sum(count > RATIOS_PER_SLICE for count in counts),
    )


def memory(process: int, kind: str) -> float:
    """MB of a kind of memory, as the system's status names it, of a process; 0 if it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    line = next((each for each in status.splitlines() if each.startswith(kind)), f"{kind}: 0 kB")
    return int(line.split()[1]) / 1000


if __name__ == "__main__":
    main()
