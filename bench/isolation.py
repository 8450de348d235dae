"""What it costs that the engine computes in a process of its own, in pairs.

    python -m bench.isolation [--work build/isolation] [--rounds 9] [--series 20] [--slices 20]

Random weights; slices of 512 x 512 made from the template that nilearn ships, networks of 256 x
256. Batch: one batch of 8 in the process of its own over the same batch in this process, medians of
pairs in turn. Command: `wsseg-infer --isolate` over `--no-isolate` from the shell, on the series
and on one slice; processor time is that of all processes, which other programs on the machine
disturb less; memory is the sum of what they have for themselves (PSS), at its peak.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.speed.models import model_folder
from bench.speed.setting import SCALES, Setting
from bench.speed.slices import series_folder, slices_file
from bench.timing import where
from wsseg.serve.engines.base import EngineOptions
from wsseg.serve.engines.benchmark import interleaved, warm_up
from wsseg.serve.engines.child import ChildEngine
from wsseg.serve.engines.select import open_entry
from wsseg.serve.manifest import load_model
from wsseg.train.config import NetworkName

NETWORKS: tuple[NetworkName, ...] = ("mobilenet_v2", "resnet50")
SIZE = 256
BATCH = 8
CALLS = 3
"""Batches of one turn, so that what the other one's threads still do is a small part of it."""
POLL_SECONDS = 0.02


def batches(setting: Setting, network: NetworkName, rounds: int) -> Iterator[str]:
    """A line for each engine of the model."""
    manifest, folder = load_model(model_folder(setting, network, SIZE))
    pixels = np.load(slices_file(setting))[:BATCH, None].astype(np.float32)
    for entry in manifest.engines:
        here = open_entry(folder, manifest, entry, EngineOptions("cpu"))
        name: Any = entry.runtime.replace("_", "-")
        asked = EngineOptions("cpu", entry.precision, engine=name)
        apart = ChildEngine(folder, manifest, asked)
        for engine in (here, apart):
            warm_up(partial(engine, pixels))
        own = os.getpid()
        turns = {
            "apart": partial(_several, partial(apart, pixels), (own, apart.pid)),
            "here": partial(_several, partial(here, pixels), (own,)),
        }
        times = interleaved(turns, rounds)
        what = f"{network}, {entry.runtime} {entry.precision}, batch of {BATCH}"
        for index, kind in enumerate(("time", "processor time")):
            above, alone = ([each[index] for each in times[name]] for name in turns)
            milliseconds = 1000 * statistics.median(alone) / CALLS
            yield f"| {what}, {kind} | {milliseconds:.0f} ms | {_ratio(above, alone)} |"
        apart.close()


def _several(action: Callable[[], object], processes: tuple[int, ...]) -> tuple[float, float]:
    """Seconds, and seconds of processors, of a few calls; processes: those that compute."""
    began, used = time.perf_counter(), sum(map(_processor_seconds, processes))
    for _ in range(CALLS):
        action()
    return time.perf_counter() - began, sum(map(_processor_seconds, processes)) - used


def _processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def commands(setting: Setting, network: NetworkName, scans: Path, rounds: int) -> Iterator[str]:
    """Lines of the command's time and memory on a folder of scans."""
    model = model_folder(setting, network, SIZE)
    turns = {
        option: partial(_run, model, scans, option, setting.work / "ratios.csv")
        for option in ("--isolate", "--no-isolate")
    }
    interleaved(turns, 1)  # into the system's cache
    found = interleaved(turns, rounds)
    for index, (kind, unit) in enumerate(
        (("time", "s"), ("processor time", "s"), ("memory", "MB"))
    ):
        apart, here = ([each[index] for each in found[option]] for option in turns)
        median = statistics.median(here)
        yield (
            f"| {network}, wsseg-infer {scans.name}, {kind} | {median:.3g} {unit} | "
            f"{_ratio(apart, here)} |"
        )


def _run(model: Path, scans: Path, option: str, report: Path) -> tuple[float, float, float]:
    """Seconds, seconds of processors and peak MB of one command and what it starts."""
    began = time.perf_counter()
    code = "from wsseg.cli.main import infer_main; infer_main()"
    asked = ["--model", str(model), "--report", str(report), "--overwrite", "--device", "cpu"]
    command = subprocess.Popen(
        [sys.executable, "-c", code, str(scans), *asked, option], stderr=subprocess.DEVNULL
    )
    peaks = [0.0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            peaks.append(_own_mb(command.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(command.pid, 0)
    spent = time.perf_counter() - began
    command.returncode = os.waitstatus_to_exitcode(status)
    done.set()
    watcher.join()
    if command.returncode:
        raise SystemExit(f"wsseg-infer ended with exit code {command.returncode}")
    return spent, usage.ru_utime + usage.ru_stime, max(peaks)


def _own_mb(process: int) -> float:
    """What a process and its children have for themselves, and their share of the rest."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        own = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        tasks = Path(f"/proc/{process}/task").iterdir()
        children = [child for each in tasks for child in (each / "children").read_text().split()]
    except (OSError, StopIteration):  # it has ended
        return 0.0
    return own * 1024 / 1e6 + sum(_own_mb(int(child)) for child in children)


def _ratio(above: list[float], below: list[float]) -> str:
    pairs = [a / b for a, b in zip(above, below, strict=True)]
    return f"{statistics.median(pairs):.3f} ({min(pairs):.3f} to {max(pairs):.3f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/isolation"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--series", type=int, default=20)
    parser.add_argument("--slices", type=int, default=20)
    chosen = parser.parse_args()
    work = chosen.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    setting = Setting(SCALES["quick"], None, work, Path(), "cpu")
    one = series_folder(setting, "one", series=1, slices=1)
    many = series_folder(setting, "many", series=chosen.series, slices=chosen.slices)
    print(f"{where()}\n\n| what | without | with / without |\n|---|---|---|", flush=True)
    for network in NETWORKS:
        lines = itertools.chain(
            batches(setting, network, chosen.rounds),
            commands(setting, network, one, chosen.rounds),
            commands(setting, network, many, chosen.rounds),
        )
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
