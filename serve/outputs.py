"""The files that are written for each measured scan, beside the rows of the report.

A new kind of file is a function that returns an `Output`, and a line in `infer._outputs`, whose
order is the order of writing. An output runs in the threads that write. It raises NotPossibleError
for a scan that cannot have such a file, and whatever it likes where writing fails: both become a
row of the failures table. What it returns, later outputs of the same scan find under its name: so
the structured report refers to the segmentation.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsseg.imaging.definitions import Window
from wsseg.imaging.disk import is_full
from wsseg.imaging.errors import Failure, NotPossibleError, WssegError
from wsseg.imaging.label_maps import write_labels
from wsseg.imaging.probability_maps import ProbabilityType, write_probability
from wsseg.imaging.scan import Scan
from wsseg.serve.measure import MeasuredScan
from wsseg.serve.overlay import write_overlays

PHI_RISK = "PHI_RISK"
NOT_WRITTEN = "not_written"
NO_SPACE = "no_space"
"""Of a file that may be written when there is more space."""

logger = logging.getLogger(__name__)

Write = Callable[[MeasuredScan, Path, dict[str, Any]], Any]
"""Writes the files of one scan into a folder. It is given what the earlier outputs of the same scan
returned or kept, by names, and returns what later outputs may need, or None."""


@dataclass(frozen=True)
class Output:
    """One kind of file that is written for each scan.

    name: noun for messages, such as "label maps". needs_labels, needs_masks, needs_probability:
    what must be kept of a `MeasuredScan` for it, and in which type. prepare: called with each scan
    before it is computed, in a thread that reads.
    """

    name: str
    folder: Path
    write: Write
    needs_labels: bool = False
    needs_masks: bool = False
    needs_probability: ProbabilityType | None = None
    prepare: Callable[[Scan], None] = lambda _: None


def write_outputs(outputs: Sequence[Output], measured: MeasuredScan) -> tuple[Failure, ...]:
    """Write all outputs of one scan, in order; returns a Failure for each that was not written.

    An output that fails costs neither the rows of the scan nor its other outputs.
    """
    failures = []
    made: dict[str, Any] = {}
    source = measured.scan.ref.files[0].source
    for output in outputs:
        try:
            made[output.name] = output.write(measured, output.folder, made)
        except NotPossibleError as error:
            message = f"measured, but it has no {output.name}: {error}"
            failures.append(Failure(source, error.reason, message, "skipped"))
        except Exception as error:  # errors of libraries too: the rows are measured
            message = f"measured, but its {output.name} could not be written: {_reason(error)}"
            reason = NO_SPACE if is_full(error) else NOT_WRITTEN
            failures.append(Failure(source, reason, message))
    return tuple(failures)


def _reason(error: BaseException) -> str:
    """Why an output could not be written, in one line."""
    while type(error.__cause__) is type(error):  # pydicom puts a traceback around each error
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which the row names already
    if isinstance(error, WssegError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def label_maps(folder: Path, description: str) -> Output:
    """Label maps of all classes, see `write_labels`."""

    def write(measured: MeasuredScan, folder: Path, _made: dict[str, Any]) -> None:
        if measured.labels is not None:
            write_labels(measured.scan, measured.labels, folder, description=description)

    return Output("label maps", folder, write, needs_labels=True)


def recovered_masks(folder: Path) -> Output:
    """Label maps of the masks that were recovered from known ratios."""

    def write(measured: MeasuredScan, folder: Path, _made: dict[str, Any]) -> None:
        if measured.recovered:
            write_labels(measured.scan, measured.recovered.labels, folder)

    return Output("recovered masks", folder, write)


def probability_maps(folder: Path, kind: ProbabilityType, descriptions: Sequence[str]) -> Output:
    """The probability of each class, see `write_probability`."""

    def write(measured: MeasuredScan, folder: Path, _made: dict[str, Any]) -> None:
        if measured.probability is not None:
            write_probability(
                measured.scan, measured.probability, folder, descriptions=descriptions
            )

    return Output("probability maps", folder, write, needs_probability=kind)


def overlays(folder: Path, window: Window) -> Output:
    """Pictures with outlines; none for a scan that may show text burned into its pixels."""

    def write(measured: MeasuredScan, folder: Path, _made: dict[str, Any]) -> None:
        if PHI_RISK in measured.scan.flags:
            logger.info(
                "a scan may show burned-in text: no overlay is drawn",
                extra={"event": "overlay_withheld"},
            )
        else:
            write_overlays(measured, window, folder)

    return Output("overlays", folder, write, needs_labels=True)
