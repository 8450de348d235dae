"""`wsseg bench`: how fast every engine of a model is on this machine."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from wsseg.cli.console import JsonLogOption, console, guarded, start_logging
from wsseg.imaging.errors import NothingToDoError, WssegError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wsseg.imaging.scan import ScanRef
    from wsseg.serve.engines.base import Device, Engine
    from wsseg.serve.manifest import EngineFile, Manifest

SEED = 0
FALLBACK_RANGE = (0.0, 255.0)
"""Intensities of made slices where the model has no fixed window."""


def bench(
    model: Annotated[
        Path, typer.Argument(envvar="WSSEG_MODEL", help="Model folder that wsseg-export wrote.")
    ],
    scans: Annotated[
        list[Path] | None,
        typer.Argument(help="Scans to take slices from: files, folders, archives; else made ones."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Slices the network sees at once.")] = 8,
    rounds: Annotated[
        int, typer.Option(min=1, help="Times that each engine has its turn; medians are shown.")
    ] = 5,
    side: Annotated[int, typer.Option(min=16, help="Rows and columns of made slices.")] = 512,
    device: Annotated[
        str, typer.Option(envvar="WSSEG_DEVICE", help="auto, cpu or cuda (an error elsewhere).")
    ] = "auto",
    threads: Annotated[
        int, typer.Option(min=0, help="CPU threads of the network; 0: all cores it may use.")
    ] = 0,
    torch: Annotated[
        bool, typer.Option("--torch", help="Time PyTorch's model.pt2 too, where the model has it.")
    ] = False,
    json_log: JsonLogOption = False,
) -> None:
    """Time every engine of a model folder that runs on this machine.

    The engines take turns on the same slices. Ratios are to fp32 in ONNX Runtime: 2 is twice as
    fast. Without SCANS the slices are made, which costs an engine the same time.
    """
    start_logging(as_json=json_log)
    with guarded(prints=True):
        from wsseg.serve.engines.base import Device
        from wsseg.settings import one_of

        options = BenchOptions(
            batch, rounds, side, one_of("--device", device, get_args(Device)), threads, torch
        )
        show(compare(model, scans or [], options))


@dataclass(frozen=True)
class BenchOptions:
    """batch: slices at once. rounds: turns of each engine. side: of made slices, pixels.

    torch: time PyTorch's program too.
    """

    batch: int = 8
    rounds: int = 5
    side: int = 512
    device: "Device" = "auto"
    threads: int = 0
    torch: bool = False


@dataclass(frozen=True)
class Line:
    """One engine of the folder: what it reached, or why it does not run here.

    engine: runtime and device that really ran. ratio: times as fast as fp32 in ONNX Runtime, None
    where the folder has no such engine that runs here.
    """

    file: str
    engine: str
    precision: str
    slices_per_second: float | None = None
    ratio: float | None = None
    why: str = ""


def compare(model: Path, scans: Sequence[Path], options: BenchOptions) -> list[Line]:
    """Time the engines of a folder in turn on the same slices; those that fail say why."""
    from wsseg.serve.engines.base import EngineError, EngineOptions
    from wsseg.serve.engines.benchmark import warm_up
    from wsseg.serve.engines.select import open_entry
    from wsseg.serve.manifest import load_model

    manifest, folder = load_model(model)
    pixels = _slices_of(scans, manifest, options) if scans else _noise(manifest, options)
    asked = EngineOptions(device=options.device, threads=options.threads)
    opened: dict[EngineFile, Engine] = {}
    lines: dict[EngineFile, Line] = {}
    entries = [e for e in manifest.engines if options.torch or e.runtime != "torch"]
    for entry in entries:
        try:
            engine = open_entry(folder, manifest, entry, asked)
            warm_up(partial(engine, pixels))
        except (WssegError, EngineError) as error:
            lines[entry] = Line(entry.file, entry.runtime, entry.precision, why=str(error))
        else:
            opened[entry] = engine
    lines |= _timed(opened, pixels, options.rounds)
    return [lines[entry] for entry in entries]


def _timed(
    engines: "dict[EngineFile, Engine]", pixels: "NDArray[np.float32]", rounds: int
) -> "Iterator[tuple[EngineFile, Line]]":
    """Each engine with its medians over the rounds."""
    from wsseg.serve.engines.benchmark import interleaved, paired_ratio, reference, seconds

    def turn(engine: "Engine") -> Callable[[], float]:
        return lambda: seconds(lambda: engine(pixels))

    times = interleaved({entry: turn(engine) for entry, engine in engines.items()}, rounds)
    measure = reference(engines)
    for entry, engine in engines.items():
        own = times[entry]
        rate = len(pixels) / statistics.median(own)
        ratio = None if measure is None else paired_ratio(times[measure], own)
        yield entry, Line(entry.file, engine.name, engine.precision, rate, ratio)


def _slices_of(
    scans: Sequence[Path], manifest: "Manifest", options: BenchOptions
) -> "NDArray[np.float32]":
    """A batch of slices of one shape from the scans; fewer where there are no more of any shape."""
    import numpy as np

    from wsseg.imaging.discovery import find
    from wsseg.imaging.scan import ScanRef
    from wsseg.imaging.scratch import scratch_folder

    shapes: dict[tuple[int, ...], list[NDArray[np.float32]]] = defaultdict(list)
    with scratch_folder() as scratch:
        for found in find(scans, scratch=scratch):
            if not isinstance(found, ScanRef):
                continue
            for plane in _planes(found, manifest.channels):
                shapes[plane.shape].append(plane)
                if len(shapes[plane.shape]) == options.batch:
                    return np.stack(shapes[plane.shape])
    if not shapes:
        raise NothingToDoError("no scan that can be read was found: give others, or none")
    return np.stack(max(shapes.values(), key=len))


def _planes(ref: "ScanRef", channels: int) -> "Iterator[NDArray[np.float32]]":
    """The slices of a scan as the network takes them; none of one that cannot be read."""
    from wsseg.imaging.reading import read
    from wsseg.serve.batching import to_channels

    with suppress(WssegError):
        for plane in read(ref).pixels:
            yield to_channels(plane, channels)


def _noise(manifest: "Manifest", options: BenchOptions) -> "NDArray[np.float32]":
    """Noise within the model's window: the time of a network does not depend on the picture."""
    import numpy as np

    window = manifest.window
    low, high = (window.low, window.high) if window.kind == "fixed" else FALLBACK_RANGE
    shape = (options.batch, manifest.channels, options.side, options.side)
    return np.random.default_rng(SEED).uniform(low, high, shape).astype(np.float32)


def show(lines: Sequence[Line]) -> None:
    """Print the table, the fastest first, what does not run last."""
    from rich.table import Table

    table = Table("engine", "precision", "slices/s", "ratio", "file", box=None, pad_edge=False)
    for line in sorted(lines, key=lambda line: -(line.slices_per_second or 0.0)):
        rate = "" if line.slices_per_second is None else f"{line.slices_per_second:.2f}"
        ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
        table.add_row(line.engine, line.precision, rate, ratio, line.file)
    shown = console(highlight=False, markup=False)
    shown.print(table)
    for line in lines:
        if line.why:
            shown.print(f"{line.file} does not run here: {line.why}")
