"""Scans in, ratios out: find, read, segment, measure and write as one stream."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from wsseg.imaging.definitions import Frozen
from wsseg.imaging.errors import AllFailedError, Failure, NothingToDoError, ReadError, WssegError
from wsseg.imaging.find import find
from wsseg.imaging.labels import write_labels
from wsseg.imaging.read import read
from wsseg.imaging.scan import Scan, ScanRef
from wsseg.serve.batching import Limits, Segmented, Segmenter
from wsseg.serve.engine import Engine
from wsseg.serve.manifest import Manifest
from wsseg.serve.measure import series_rows, slice_rows
from wsseg.serve.model_folder import load_model
from wsseg.serve.onnx_engine import Device, EngineOptions, Precision, open_onnx
from wsseg.serve.overlay import write_overlays
from wsseg.serve.read_ahead import Room, ahead
from wsseg.serve.report import Report, open_report, report_paths
from wsseg.serve.rows import Provenance

PHI_RISK = "PHI_RISK"
SOME_FAILED = 8
# Stored pixels of 16 bits, packed about 2:1 by a lossless codec, become float32.
UNPACKED = 4

OnProgress = Callable[[int, int, float], None]

logger = logging.getLogger(__name__)


class InferOptions(Frozen):
    """All of a run but its inputs.

    masks, overlays: folders for label maps and for pictures with the regions drawn in. batch:
    slices the network sees at once. threads: of the engine on a CPU, 0 leaves it to the runtime.
    readers: threads that read scans ahead. memory_mb: pixels held at once, in MiB, besides the
    engine's own; a scan that is larger is still read, alone.
    """

    model: Path
    report: Path = Path("ratios.csv")
    masks: Path | None = None
    overlays: Path | None = None
    device: Device = "auto"
    precision: Precision = "auto"
    threads: NonNegativeInt = 0
    batch: PositiveInt = 8
    readers: PositiveInt = 2
    read_ahead: PositiveInt = 32
    memory_mb: PositiveInt = 2048


@dataclass(frozen=True)
class Summary:
    """What a run did. scans, slices: measured. failed, skipped: rows of the failures table."""

    scans: int
    slices: int
    failed: int
    skipped: int
    seconds: float
    engine: str
    report: Path
    tables: tuple[Path, Path, Path]

    @property
    def exit_code(self) -> int:
        """0 all done, 3 no image was found, 4 all failed, 8 some failed."""
        if self.failed:
            return SOME_FAILED if self.scans else AllFailedError.exit_code
        return 0 if self.scans else NothingToDoError.exit_code


def infer(
    inputs: Sequence[Path], options: InferOptions, *, on_progress: OnProgress | None = None
) -> Summary:
    """Measure every scan under `inputs` with a model folder and write the report.

    Rows come in the order in which `find` meets the scans, whatever the batch size and the
    read-ahead. A scan that cannot be read, computed or written is a row of the failures table and
    costs no other scan anything. `on_progress` hears (slices done, slices met so far, slices a
    second).

    Raises WssegError, before any scan is read, for inputs, options and models that cannot be used,
    and AllFailedError if the report itself cannot be written.
    """
    started = time.monotonic()
    _require_inputs(inputs)
    tables = report_paths(options.report)
    manifest, folder = load_model(options.model)
    asked = EngineOptions(options.device, options.precision, options.threads)
    engine = open_onnx(folder, manifest, asked)
    logger.info(
        "measuring with %s, %s", engine.name, engine.precision,
        extra={"event": "run_started", "engine": engine.name, "precision": engine.precision},
    )  # fmt: skip
    run = _Run(manifest, engine, options, _Progress(on_progress or (lambda *_: None)))
    try:
        with (
            tempfile.TemporaryDirectory(prefix="wsseg-") as scratch,
            open_report(options.report) as report,
        ):
            run.measure(find(inputs, scratch=Path(scratch)), report)
    except OSError as error:
        raise AllFailedError(f"the report {options.report} could not be written: {error}") from error
    counts = run.counts
    summary = Summary(
        counts.scans, counts.slices, counts.failed, counts.skipped,
        time.monotonic() - started, engine.name, options.report, tables,
    )  # fmt: skip
    _log_end(summary)
    return summary


@dataclass
class _Counts:
    scans: int = 0
    slices: int = 0
    failed: int = 0
    skipped: int = 0


@dataclass
class _Progress:
    """Tells how many slices are done of those met so far, and how fast."""

    tell: OnProgress
    done: int = 0
    met: int = 0
    began: float | None = None

    def meet(self, scans: Iterable[Scan | Failure]) -> Iterator[Scan | Failure]:
        for item in scans:
            if isinstance(item, Scan):
                self.began = self.began or time.monotonic()
                self.met += len(item.slices)
            yield item

    def finish(self, slices: int) -> None:
        self.done += slices
        spent = time.monotonic() - (self.began or time.monotonic())
        self.tell(self.done, self.met, self.done / spent if spent else 0.0)
