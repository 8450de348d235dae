"""Compare measured with recorded ratios, and write the result as tables, plots and text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from wsseg.imaging.errors import WssegError
from wsseg.serve.agreement.figures import FIGURES, Pairs, figures
from wsseg.serve.agreement.join import Joined, Pair, UnmatchedRow, join
from wsseg.serve.agreement.reference import agreement_paths
from wsseg.serve.agreement.result import Agreement, Group
from wsseg.serve.agreement.tables import (
    AgreeOptions,
    MeasuredTable,
    RecordedTable,
    read_measured,
    read_recorded,
)
from wsseg.serve.agreement.text import text
from wsseg.serve.report import Row, placed_together, table_writer, translated

PACKAGES = ("statsmodels", "matplotlib")
DEFAULTS = AgreeOptions()


@dataclass(frozen=True)
class FigureRow:
    """A row of agreement.csv: one figure of a ratio, of all images or of a group.

    Values and intervals are fractions; None has its reason in the note.
    """

    ratio_name: str
    by: str
    group: str
    figure: str
    value: float | None
    low: float | None
    high: float | None
    p_value: float | None
    images: int
    patients: int
    note: str


@dataclass(frozen=True)
class PairRow:
    """A row of agreement.pairs.csv. patient: a number that stands for the patient, from 1."""

    ratio_name: str
    source: str
    series_uid: str
    instance_uid: str
    frame: str
    slice: str
    measured: float
    recorded: float
    readings: int
    difference: float
    patient: int
    groups: str
    measured_line: int
    recorded_lines: str


def check_packages() -> None:
    """Raise WssegError if a package of the extra `agree` is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise WssegError(
            f"{' and '.join(missing)} missing, which comparing with recorded ratios takes: "
            "pip install 'wsseg[agree]'"
        )


def compare(ratios: Path, recorded: Path, options: AgreeOptions = DEFAULTS) -> Agreement:
    """The agreement of a report's ratios with those of a recorded table.

    Raises WssegError for tables and columns that cannot be used, and if no row has a partner.
    """
    check_packages()
    measured = read_measured(ratios, options)
    return compared(measured, read_recorded(recorded, measured.definitions, options), options)


def compared(
    measured: MeasuredTable, recorded: RecordedTable, options: AgreeOptions = DEFAULTS
) -> Agreement:
    """The agreement of tables that were read."""
    joined = join(measured, recorded, options)
    groups = tuple(_groups(joined, measured, options))
    said = text(groups, joined, (measured, recorded), options)
    return Agreement(groups, joined.pairs, joined.unmatched, said)


def _groups(joined: Joined, measured: MeasuredTable, options: AgreeOptions) -> Iterator[Group]:
    for definition in measured.definitions:
        of_ratio = [each for each in joined.pairs if each.measured.ratio_name == definition.name]
        if not of_ratio:
            continue
        pairs = _pairs(of_ratio)
        yield _group(definition.name, "", "", pairs, options)
        for name in options.by:
            values = [each.groups[name] for each in of_ratio]
            for value in sorted(set(values)):
                chosen = pairs.chosen([each == value for each in values])
                yield _group(definition.name, name, value, chosen, options)


def _group(ratio: str, by: str, value: str, pairs: Pairs, options: AgreeOptions) -> Group:
    return Group(ratio, by, value, pairs, figures(pairs, loq_error=options.loq_error))


def _pairs(chosen: Sequence[Pair]) -> Pairs:
    return Pairs(
        np.array([each.ratio for each in chosen]),
        tuple(each.readings for each in chosen),
        _numbers([each.patient for each in chosen]),
        # What has no subject was scanned once.
        _numbers([each.subject or f"\0{i}" for i, each in enumerate(chosen)])
        if any(each.subject for each in chosen)
        else None,
    )


def _numbers(names: Iterable[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A number for each name, from 0 in the order in which they first come."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], np.int64)


# Writing.


def check_outputs(
    out: Path, inputs: Iterable[Path], *, overwrite: bool, option: str = "--out"
) -> None:
    """Raise WssegError for an output that is there already, or that is one of the inputs.

    option: that names the output, for the message.
    """
    sources = list(inputs)
    for path in agreement_paths(out):
        for source in sources:
            if path.resolve() == source.resolve():
                raise WssegError(
                    f"{path} would replace the input {source}: choose another {option}"
                )
        if path.exists() and not overwrite:
            raise WssegError(
                f"{path} is there already: give --overwrite to replace it, or name another {option}"
            )


def write(agreement: Agreement, out: Path, *, plots: Path | None = None) -> tuple[Path, ...]:
    """Write the tables and the text, and the plots into a folder; returns the paths of all.

    Each file appears whole or not at all, the tables and the text together. Raises AllFailedError
    if one cannot be written.
    """
    paths = agreement_paths(out)
    tables: tuple[tuple[type[Row], Iterable[Row]], ...] = (
        (FigureRow, _figure_rows(agreement)),
        (PairRow, _pair_rows(agreement)),
        (UnmatchedRow, agreement.unmatched),
    )
    with placed_together(paths) as scratch, translated(out):
        *files, text = scratch
        for file, (row_type, rows) in zip(files, tables, strict=True):
            with table_writer(file)(file, row_type) as add:
                add(rows)
        text.write_text(agreement.text, encoding="utf-8", newline="\n")
    return paths if plots is None else (*paths, *write_plots(agreement, plots))


def write_plots(agreement: Agreement, folder: Path) -> tuple[Path, ...]:
    """Write the plots alone, see `draw`; returns their paths.

    Raises AllFailedError if one cannot be written.
    """
    from wsseg.serve.agreement.plots import draw

    with translated(folder):
        return draw(agreement.groups, folder)


def _figure_rows(agreement: Agreement) -> Iterator[FigureRow]:
    for group in agreement.groups:
        for name in FIGURES:
            found = group.figures[name]
            yield FigureRow(
                group.ratio_name,
                group.by,
                group.group,
                name,
                found.value,
                found.low,
                found.high,
                found.p,
                group.images,
                group.pairs.patients,
                found.note,
            )


def _pair_rows(agreement: Agreement) -> Iterator[PairRow]:
    patients = _numbers(each.patient for each in agreement.pairs)
    for each, patient in zip(agreement.pairs, patients, strict=True):
        cells = each.measured.cells
        mean = sum(each.readings) / len(each.readings)
        yield PairRow(
            ratio_name=each.measured.ratio_name,
            source=cells.get("source", ""),
            series_uid=cells.get("series_uid", ""),
            instance_uid=cells.get("instance_uid", ""),
            frame=cells.get("frame", ""),
            slice=cells.get("slice", ""),
            measured=each.ratio,
            recorded=mean,
            readings=len(each.readings),
            difference=each.ratio - mean,
            patient=int(patient) + 1,
            groups="; ".join(f"{name}={value}" for name, value in each.groups.items()),
            measured_line=each.measured.line,
            recorded_lines=" ".join(map(str, each.lines)),
        )
