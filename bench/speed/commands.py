"""Scenarios of whole commands: a folder of series, start-up, memory, the search for scans."""

import sys
from pathlib import Path

from bench.speed.command import INFER, Command, infer_command
from bench.speed.contest import memory
from bench.speed.helper import existing
from bench.speed.models import model_folder
from bench.speed.networks import helped, rounds
from bench.speed.results import Place
from bench.speed.scenario import Candidate, Scenario, fixed
from bench.speed.served import served, served_precision
from bench.speed.setting import NETWORK, Setting
from bench.speed.slices import first_series, series_folder, slices_file

BATCH = 8
"""Of `wsseg-infer` by default."""
WHOLE = "wsseg-infer"
ALONE = "its engine alone"
HELP = "wsseg-infer --help"
BARE = "Python that imports numpy"


def one_slice(setting: Setting) -> Path:
    """A folder with one slice."""
    return series_folder(setting, "single", series=1, slices=1)


def report_file(setting: Setting, name: str) -> Path:
    """Where a command writes its table."""
    folder = setting.work / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.csv"


def whole_candidates(setting: Setting, place: Place) -> list[Candidate]:
    """The command on a folder of series, and its engine on slices that lie ready."""
    size, scale = place.size or setting.scale.sizes[0], setting.scale
    model = model_folder(setting, NETWORK, size)
    scans = series_folder(setting, "whole", series=scale.series, slices=scale.slices)
    count = scale.series * scale.slices
    command = infer_command(scans, model, report_file(setting, "whole"), count=count)
    number = served(model, one_slice(setting))
    precision = served_precision(model, one_slice(setting))
    alone = helped(
        "engine",
        model=existing(model),
        entry=number,
        slices=existing(slices_file(setting)),
        batch=BATCH,
        batches=scale.alone,
    )
    return [
        Candidate(WHOLE, precision, size, BATCH, fixed(command), (f"{ALONE} {precision}",)),
        Candidate(ALONE, precision, size, BATCH, alone),
    ]


def start_candidates(setting: Setting, place: Place) -> list[Candidate]:
    """From nothing to the first row; the help text; what Python itself takes."""
    size = setting.scale.sizes[0]
    model = model_folder(setting, NETWORK, size)
    first = infer_command(one_slice(setting), model, report_file(setting, "one"), count=1)
    precision = served_precision(model, one_slice(setting))
    bare = Command((sys.executable, "-c", "import numpy"), 1)
    return [
        Candidate(f"{WHOLE}, one slice", precision, size, 1, fixed(first), (BARE,)),
        Candidate(HELP, "", 0, 0, fixed(Command((*INFER, "--help"), 1)), (BARE,)),
        Candidate(BARE, "", 0, 0, fixed(bare)),
    ]


def memory_candidates(setting: Setting, place: Place) -> list[Candidate]:
    """The command on few and on many series; each compared with the fewest."""
    size, scale = setting.scale.sizes[0], setting.scale
    model = model_folder(setting, NETWORK, size)
    precision = served_precision(model, one_slice(setting))
    every = series_folder(
        setting, "memory", series=max(scale.memory_series), slices=scale.memory_slices
    )
    fewest = f"{min(scale.memory_series)} series {precision}"
    return [
        Candidate(
            f"{series} series",
            precision,
            size,
            BATCH,
            fixed(
                infer_command(
                    first_series(every, series),
                    model,
                    report_file(setting, f"memory-{series}"),
                    count=series * scale.memory_slices,
                )
            ),
            (fewest,),
        )
        for series in scale.memory_series
    ]


def scan_candidates(setting: Setting, place: Place) -> list[Candidate]:
    """Finding and ordering series, against a loop that reads the same headers."""
    scale = setting.scale
    scans = existing(series_folder(setting, "whole", series=scale.series, slices=scale.slices))
    peer = "pydicom, headers only"
    return [
        Candidate("wsseg's search", "", 0, 0, helped("find", folder=scans), (peer,)),
        Candidate(peer, "", 0, 0, helped("headers", folder=scans)),
    ]


def command_rounds(setting: Setting) -> int:
    """Long turns, few of them."""
    return setting.scale.command_rounds


def memory_rounds(setting: Setting) -> int:
    """The longest turns."""
    return setting.scale.memory_rounds


def everywhere(name: str) -> list[Place]:
    """One place with all rows."""
    return [Place(name)]


WHOLE_COMMAND = Scenario(
    "whole",
    "The whole command",
    "slices/s",
    "`wsseg-infer` with its defaults on a folder of DICOM series, from the shell's point of view, "
    "and the engine that it takes on slices that lie ready.",
    lambda setting: everywhere("whole"),
    whole_candidates,
    command_rounds,
)
START = Scenario(
    "start",
    "Start-up",
    "starts/s",
    "From the shell's point of view; files are in the system's cache.",
    lambda setting: everywhere("start"),
    start_candidates,
    rounds,
)
MEMORY = Scenario(
    "memory",
    "Memory",
    "slices/s",
    "Peak memory of `wsseg-infer` with its defaults; the ratio is of memory, to the fewest series.",
    lambda setting: everywhere("memory"),
    memory_candidates,
    memory_rounds,
    measure=memory,
)
SCAN = Scenario(
    "scan",
    "Finding scans",
    "files/s",
    "Headers only: which files are scans, which belong together, in which order.",
    lambda setting: everywhere("scan"),
    scan_candidates,
    rounds,
)
