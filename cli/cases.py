"""`wsseg cases`: what a table of cases can teach, before anything is trained on it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsseg.cli.console import (
    IgnoreOption,
    JsonLogOption,
    RatioOption,
    SheetOption,
    console,
    guarded,
    start_logging,
)
from wsseg.imaging.errors import WssegError

if TYPE_CHECKING:
    from rich.table import Table

    from wsseg.train.cases import Case, CaseTable, SupervisionKind

MOMENTS: "tuple[SupervisionKind, ...]" = ("centroid", "spread")
"""Signals that the default preset does not read."""
BLIND_TO_BACKGROUND = ("weak_mark",)
"""Terms that read marks, but of classes only."""

cases = typer.Typer(
    name="cases",
    help="Look at a table of cases.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@cases.callback()
def _cases() -> None:
    """Look at a table of cases."""


@cases.command()
def check(
    table: Annotated[
        Path, typer.Argument(metavar="CASES", help="Table of images and what is known (CSV, XLSX).")
    ],
    config: Annotated[
        Path | None,
        typer.Option(help="TOML settings of wsseg-train, which count here too; flags win."),
    ] = None,
    ratio: RatioOption = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="PNG to write: up to 12 training cases with what the table says of them."
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=32, help="Side of the square that the network will see. [default: 256]"),
    ] = None,
    sheet: SheetOption = None,
    ignore_columns: IgnoreOption = None,
    json_log: JsonLogOption = False,
) -> None:
    """Check every row and file, and tell what the cases can teach.

    Prints how many cases carry each signal, the combinations in training, the loss terms and
    presets that read them, and what is allowed but may not be meant. A table with faults ends
    with all of them and exit code 2. The picture names cases by their row alone; it shows
    patients' images, treat it as such.
    """
    start_logging(as_json=json_log)
    with guarded(prints=True):
        given = {
            "ratios": ratio or None,
            "size": size,
            "sheet": sheet,
            "ignore_columns": ignore_columns or None,
        }
        check_cases(table, picture=picture, config=config, given=given)


@dataclass(frozen=True)
class Carried:
    """A case and its signals, class by class."""

    case: "Case"
    signals: "tuple[frozenset[SupervisionKind], ...]"


def check_cases(
    path: Path, *, picture: Path | None, config: Path | None = None, given: dict[str, Any]
) -> None:
    """Check a table as a training would; print what it can teach, and draw some cases if asked to.

    config, given: settings of a training, as `wsseg.fit` takes them.
    """

    from wsseg.cli.case_picture import draw_cases
    from wsseg.runs import training_settings
    from wsseg.train.cases import class_denominators, small_regions
    from wsseg.train.trainer import cases_for, target_preview

    if picture is not None and picture.suffix.lower() != ".png":
        raise WssegError(f"--picture {picture.name}: pictures are written as PNG; name it .png")
    chosen = training_settings(config, given)
    table = cases_for(path, chosen)
    carried = tuple(carry(case, len(table.classes)) for case in table.cases)
    denominators = class_denominators(table.classes, chosen.ratios)
    small = small_regions(table.part("train"), table.classes, denominators, chosen.size)
    show(table, carried, tuple(small))
    if picture is not None:
        training = [(each.case, each.signals) for each in carried if each.case.split == "train"]
        draw_cases(training, table.classes, picture, target_preview(table, chosen.ratios))
        console(highlight=False, markup=False).print(f"wrote {picture}", soft_wrap=True)


def carry(case: "Case", classes: int) -> Carried:
    """The signals of a checked case."""
    from wsseg.train.cases import class_supervision

    return Carried(case, tuple(class_supervision(case, label) for label in range(1, classes + 1)))


def show(table: "CaseTable", carried: Sequence[Carried], further: Sequence[str] = ()) -> None:
    """Print the report. further: warnings besides those of the table and of what it holds."""

    from wsseg.imaging.dicom import silence_pydicom
    from wsseg.train.cases import counted_planes, image_doubts

    shown = console(highlight=False, markup=False)
    shown.print(f"{table.path.name}: {len(carried)} cases, classes {', '.join(table.classes)}")
    shown.print(_counts(table.classes, carried))
    for line in _sizes(table.classes, carried):
        shown.print(line, soft_wrap=True)
    if planes := counted_planes(table.cases):
        shown.print(f"planes: {planes}")
    training = [each for each in carried if each.case.split == "train"]
    shown.print("What the training cases can teach:")
    shown.print(_combinations(table.classes, training))
    shown.print("What reads it:")
    shown.print(_readers(training))
    with silence_pydicom:
        unlike = tuple(image_doubts(table.cases))
    for warning in (*table.doubts, *further, *warnings(table.classes, carried), *unlike):
        shown.print(f"warning: {warning}", soft_wrap=True)


def _table(*columns: str) -> "Table":
    from rich.table import Table

    from wsseg.train.cases import SPLITS

    table = Table(box=None, pad_edge=False)
    for column in columns:
        numeric = column in (*SPLITS, "cases")
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric)
    return table


def _counts(classes: Sequence[str], carried: Sequence[Carried]) -> "Table":
    """Cases that carry each signal, by class and split."""
    from wsseg.train.cases import FIELDS, SPLITS

    cases = Counter(each.case.split for each in carried)
    shown = [split for split in SPLITS.values() if cases[split] or split != "calibrate"]
    table = _table("class", "signal", *shown)
    for class_index, name in enumerate(classes):
        for signal in FIELDS:
            counts = Counter(e.case.split for e in carried if signal in e.signals[class_index])
            if counts:
                table.add_row(name, signal, *(str(counts[split]) for split in shown))
    table.add_row("", "all cases", *(str(cases[split]) for split in shown))
    return table


def _sizes(classes: Sequence[str], carried: Sequence[Carried]) -> Iterator[str]:
    """The ratios of each class: what they are like shows whether they are in the right unit."""
    for class_index, name in enumerate(classes):
        ratios = [each.case.ratios[class_index] for each in carried]
        known = [ratio for ratio in ratios if ratio]
        zeros = sum(ratio == 0 for ratio in ratios)
        if known:
            yield (
                f"ratio of {name}: median {median(known):.3g}, from {min(known):.3g} to "
                f"{max(known):.3g}{f', besides {zeros} zeros' if zeros else ''}"
            )


def _combinations(classes: Sequence[str], training: Sequence[Carried]) -> "Table":
    """How many training cases carry each combination of signals, the commonest first."""
    from wsseg.train.cases import FIELDS

    table = _table("class", "signals", "cases")
    for class_index, name in enumerate(classes):
        counts = Counter(each.signals[class_index] for each in training)
        for signals, count in counts.most_common():
            named = [signal for signal in FIELDS if signal in signals]
            only = len(named) == 1
            words = f"{named[0]} only" if only else " + ".join(named) or "nothing"
            table.add_row(name, words, str(count))
    return table


def _readers(training: Sequence[Carried]) -> "Table":
    """Losses and presets that read the signals of the training cases."""
    from wsseg.train.cases import FIELDS

    carried = _all_signals(training)
    signals_of: dict[tuple[str, str], list[str]] = {}
    for signal in (signal for signal in FIELDS if signal in carried):
        terms, presets = readers(signal)
        cells = ", ".join(terms) or "none", ", ".join(presets) or "none"
        signals_of.setdefault(cells, []).append(signal)
    table = _table("signal", "losses", "presets")
    for cells, signals in signals_of.items():
        table.add_row(", ".join(signals), *cells)
    return table


def _all_signals(carried: Sequence[Carried]) -> "set[SupervisionKind]":
    return {signal for each in carried for signals in each.signals for signal in signals}


def readers(signal: "SupervisionKind") -> tuple[list[str], list[str]]:
    """The loss terms, and the presets with such a term, that this signal alone lets teach."""
    from wsseg.train.cases import FIELDS
    from wsseg.train.config import PRESETS
    from wsseg.train.losses import LOSSES

    labels = {loss.kind: loss.labels for loss in (kind() for kind in LOSSES)}
    blind = BLIND_TO_BACKGROUND if signal == "background marks" else ()
    terms = [kind for kind, read in labels.items() if read & FIELDS[signal] and kind not in blind]
    presets = [
        name for name, chosen in PRESETS.items() if any(term.kind in terms for term in chosen)
    ]
    return terms, presets


def warnings(classes: Sequence[str], carried: Sequence[Carried]) -> Iterator[str]:
    """What a table may hold but its writer may not mean, besides what `read_cases` doubts."""
    from wsseg.train.cases import LOCATING
    from wsseg.train.config import TrainConfig

    cases = [each.case for each in carried]
    if not any(case.group for case in cases) and len({case.image for case in cases}) > 1:
        yield "no case has a group: slices of one patient may be in train and in val"
    idle = [e.case.row for e in carried if e.case.split == "val" and not any(e.signals)]
    if idle:
        yield f"{len(idle)} cases of val have nothing to judge by, the first in line {idle[0]}"
    training = [each for each in carried if each.case.split == "train"]
    for class_index, name in enumerate(classes):
        signals = [each.signals[class_index] for each in training]
        if any(signals) and not any(LOCATING & each for each in signals):
            yield (
                f"no training case says where {name} is: it will be localised from its areas "
                "alone; mark it in a few pictures to be sure"
            )
    unread = [signal for signal in MOMENTS if signal in _all_signals(training)]
    if unread:
        preset = TrainConfig().preset
        yield f"the preset {preset} does not read {' and '.join(unread)}: --preset moments does"
