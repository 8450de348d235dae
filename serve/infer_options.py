"""What a run is asked for, and whether its outputs have a place."""

import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from wsseg.imaging.definitions import Frozen
from wsseg.imaging.errors import WssegError
from wsseg.serve.engine_options import Device, EngineName, EngineOptions, Precision
from wsseg.serve.pixel_size import PixelSize
from wsseg.serve.report import recovered_paths, report_paths

logger = logging.getLogger(__name__)

BATCH = 8
"""Slices that the network sees at once, where nothing else is asked for."""


class InferOptions(Frozen):
    """All of a run but its inputs.

    masks, overlays: folders for label maps and for pictures with the regions drawn in.
    known_ratios: table of ratios on file, to recover masks by, see `read_known`; sheet,
    ignore_columns: how it is read, see `TableOptions`. batch: slices the network sees at once.
    threads: of the engine on a CPU, 0 for the cores that the process may use. readers, read_ahead:
    threads that read, and scans they read ahead. memory_mb: pixels held at once, in MiB, besides
    the engine's own; a larger scan is still read, with no other beside it. skip: leave out slices
    that cannot show tissue, see `skip.skip_empty`. strict: scans that are not like the training
    images fail, see `likeness.compare_with`; else they are flagged. overwrite: an earlier report
    gives way. pixel_mm: of pictures that do not know theirs, (row, column) as they are shown.
    """

    model: Path
    report: Path = Path("ratios.csv")
    masks: Path | None = None
    overlays: Path | None = None
    known_ratios: Path | None = None
    sheet: str | None = None
    ignore_columns: tuple[str, ...] = ()
    engine: EngineName = "auto"
    device: Device = "auto"
    precision: Precision = "auto"
    threads: NonNegativeInt = 0
    batch: PositiveInt = BATCH
    readers: PositiveInt = 2
    read_ahead: PositiveInt = 8
    memory_mb: PositiveInt = 768
    skip: bool = True
    strict: bool = False
    overwrite: bool = False
    pixel_mm: PixelSize | None = None

    @property
    def recovered(self) -> Path | None:
        """Folder for recovered masks, None where no ratios are on file."""
        return recovered_paths(self.report)[1] if self.known_ratios else None

    @property
    def wanted_engine(self) -> EngineOptions:
        """What must compute."""
        return EngineOptions(
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            engine=self.engine,
            probability=self.known_ratios is not None,
            rebuild=True,
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders that label maps and pictures are written to."""
        return tuple(filter(None, (self.masks, self.overlays, self.recovered)))


def check_apart(inputs: Sequence[Path], options: InferOptions) -> None:
    """WssegError for outputs that would replace an input, or be measured by the next run."""
    for folder in options.folders:
        place = "the report, beside which it lies" if folder == options.recovered else "it"
        for source in inputs:
            if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
                raise WssegError(
                    f"output folder {folder} lies inside the input folder {source}, where its "
                    f"pictures would be taken for scans: choose another place for {place}"
                )
            if source.is_file() and source.resolve().parent == folder.resolve():
                raise WssegError(
                    f"output folder {folder} holds the input {source}, which its label map would "
                    f"replace: choose another place for {place}"
                )
    _check_tables(inputs, options)
    others = [folder.resolve() for folder in (options.masks, options.overlays) if folder]
    if options.recovered and options.recovered.resolve() in others:
        raise WssegError(f"recovered masks go to {options.recovered}: choose another for the rest")
    if len(set(others)) < len(others):
        raise WssegError(f"label maps and overlays both go to {options.masks}: choose two folders")


def _check_tables(inputs: Sequence[Path], options: InferOptions) -> None:
    """WssegError for a table of the report that would replace an input or the ratios on file."""
    read = [*inputs, *filter(None, [options.known_ratios])]
    for table in (*report_paths(options.report), recovered_paths(options.report)[0]):
        for source in read:
            if source.resolve() == table.resolve():
                raise WssegError(
                    f"{table} of the report would replace the input {source}: choose another "
                    "--report"
                )


def make_folders(options: InferOptions) -> None:
    """Make the folders that are written to; WssegError for one that cannot be made.

    What is already there stays, and the log tells: its pictures may be of scans that the new
    tables do not have.
    """
    for folder in options.folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                logger.warning(
                    "%s is not empty: pictures of other runs stay in it beside those of this one",
                    folder,
                )
        except OSError as error:
            raise WssegError(f"folder {folder} cannot be made: {error.strerror}") from error
