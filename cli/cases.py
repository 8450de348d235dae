"""`wsseg cases`: what a table of cases can teach, before anything is trained on it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsseg.cli.console import IgnoreOption, RatioOption, SheetOption, guarded, start_logging
from wsseg.imaging.errors import WssegError

if TYPE_CHECKING:
    from rich.table import Table

    from wsseg.train.cases.evidence import Signal
    from wsseg.train.cases.schema import Case, CaseTable

MOMENTS: "tuple[Signal, ...]" = ("centroid", "spread")
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
) -> None:
    """Check every row and file, and tell what the cases can teach.

    Prints how many cases carry each signal, the combinations in training, the loss terms and
    presets that read them, and what is allowed but may not be meant. A table with faults ends
    with all of them and exit code 2. The picture names cases by their row alone; it shows
    patients' images, treat it as such.
    """
    start_logging()
    with guarded():
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
    signals: "tuple[frozenset[Signal], ...]"


def check_cases(
    path: Path, *, picture: Path | None, config: Path | None = None, given: dict[str, Any]
) -> None:
    """Check a table as a training would; print what it can teach, and draw some cases if asked to.

    config, given: settings of a training, as `wsseg.fit` takes them.
    """
    from rich.console import Console

    from wsseg.cli.case_picture import draw_cases
    from wsseg.runs import training_settings
    from wsseg.train.cases.evidence import small_regions
    from wsseg.train.cases.folding import cases_for
    from wsseg.train.cases.schema import class_denominators
    from wsseg.train.trainer import target_preview

    if picture is not None and picture.suffix.lower() != ".png":
        raise WssegError(f"--picture {picture.name}: pictures are written as PNG; name it .png")
    chosen = training_settings(config, given)
    table = cases_for(path, chosen)
    carried = tuple(carry(case, len(table.classes)) for case in table.cases)
    below = class_denominators(table.classes, chosen.ratios)
    small = small_regions(table.part("train"), table.classes, below, chosen.size)
    show(table, carried, tuple(small))
    if picture is not None:
        shown = [(each.case, each.signals) for each in carried if each.case.split == "train"]
        draw_cases(shown, table.classes, picture, target_preview(table, chosen.ratios))
        Console(highlight=False, markup=False).print(f"wrote {picture}", soft_wrap=True)


def carry(case: "Case", classes: int) -> Carried:
    """The signals of a checked case."""
    from wsseg.train.cases.evidence import class_signals

    return Carried(case, tuple(class_signals(case, number) for number in range(1, classes + 1)))


def show(table: "CaseTable", carried: Sequence[Carried], further: Sequence[str] = ()) -> None:
    """Print the report. further: warnings besides those of the table and of what it holds."""
    from rich.console import Console

    from wsseg.imaging.dicom.values import quiet
    from wsseg.train.cases.images import counted_planes, doubts

    console = Console(highlight=False, markup=False)
    console.print(f"{table.path.name}: {len(carried)} cases, classes {', '.join(table.classes)}")
    console.print(_counts(table.classes, carried))
    for line in _sizes(table.classes, carried):
        console.print(line, soft_wrap=True)
    if planes := counted_planes(table.cases):
        console.print(f"planes: {planes}")
    training = [each for each in carried if each.case.split == "train"]
    console.print("What the training cases can teach:")
    console.print(_combinations(table.classes, training))
    console.print("What reads it:")
    console.print(_readers(training))
    with quiet:
        unlike = tuple(doubts(table.cases))
    for warning in (*table.doubts, *further, *warnings(table.classes, carried), *unlike):
        console.print(f"warning: {warning}", soft_wrap=True)


def _table(*columns: str) -> "Table":
    from rich.table import Table

    from wsseg.train.cases.cells import SPLITS

    table = Table(box=None, pad_edge=False)
    for column in columns:
        numeric = column in (*SPLITS, "cases")
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric)
    return table


def _counts(classes: Sequence[str], carried: Sequence[Carried]) -> "Table":
    """Cases that carry each signal, by class and split."""
    from wsseg.train.cases.cells import SPLITS
    from wsseg.train.cases.evidence import FIELDS

    table = _table("class", "signal", *SPLITS)
    for place, name in enumerate(classes):
        for signal in FIELDS:
            found = Counter(e.case.split for e in carried if signal in e.signals[place])
            if found:
                table.add_row(name, signal, *(str(found[split]) for split in SPLITS.values()))
    table.add_row("", "all cases", *(_of_split(carried, split) for split in SPLITS))
    return table


def _sizes(classes: Sequence[str], carried: Sequence[Carried]) -> Iterator[str]:
    """The ratios of each class: what they are like shows whether they are in the right unit."""
    for place, name in enumerate(classes):
        ratios = [each.case.ratios[place] for each in carried]
        known = [ratio for ratio in ratios if ratio]
        zeros = sum(ratio == 0 for ratio in ratios)
        if known:
            yield (
                f"ratio of {name}: median {median(known):.3g}, from {min(known):.3g} to "
                f"{max(known):.3g}{f', besides {zeros} zeros' if zeros else ''}"
            )


def _of_split(carried: Sequence[Carried], split: str) -> str:
    return str(sum(each.case.split == split for each in carried))


def _combinations(classes: Sequence[str], training: Sequence[Carried]) -> "Table":
    table = _table("class", "signals", "cases")
    for place, name in enumerate(classes):
        found = Counter(each.signals[place] for each in training)
        for signals, count in found.most_common():
            table.add_row(name, describe(signals), str(count))
    return table


def describe(signals: "frozenset[Signal]") -> str:
    """A combination of signals in words."""
    from wsseg.train.cases.evidence import FIELDS

    named = [signal for signal in FIELDS if signal in signals]
    return f"{named[0]} only" if len(named) == 1 else " + ".join(named) or "nothing"


def _readers(training: Sequence[Carried]) -> "Table":
    """Terms and presets that read the signals of the training cases."""
    from wsseg.train.cases.evidence import FIELDS

    carried = {signal for each in training for signals in each.signals for signal in signals}
    alike: dict[tuple[str, str], list[str]] = {}
    for signal in (signal for signal in FIELDS if signal in carried):
        terms, presets = readers(signal)
        found = ", ".join(terms) or "none", ", ".join(presets) or "none"
        alike.setdefault(found, []).append(signal)
    table = _table("signal", "terms", "presets")
    for found, signals in alike.items():
        table.add_row(", ".join(signals), *found)
    return table


def readers(signal: "Signal") -> tuple[list[str], list[str]]:
    """The loss terms, and the presets with such a term, that this signal alone lets teach."""
    from wsseg.train.cases.evidence import FIELDS
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
    cases = [each.case for each in carried]
    if not any(case.group for case in cases) and len({case.image for case in cases}) > 1:
        yield "no case has a group: slices of one patient may be in train and in val"
    idle = [e.case.row for e in carried if e.case.split == "val" and not any(e.signals)]
    if idle:
        yield f"{len(idle)} cases of val have nothing to judge by, the first in line {idle[0]}"
    training = [each for each in carried if each.case.split == "train"]
    for place, name in enumerate(classes):
        yield from _unlocated(name, [each.signals[place] for each in training])
    yield from _unread(training)


def _unlocated(name: str, signals: "Sequence[frozenset[Signal]]") -> Iterator[str]:
    from wsseg.train.cases.evidence import LOCATING

    if any(signals) and not any(LOCATING & each for each in signals):
        yield (
            f"no training case says where {name} is: only a guess from its areas can; "
            "mark it in a few pictures to be sure"
        )


def _unread(training: Sequence[Carried]) -> Iterator[str]:
    from wsseg.train.config import TrainConfig

    carried = {signal for each in training for signals in each.signals for signal in signals}
    passed = [signal for signal in MOMENTS if signal in carried]
    if passed:
        preset = TrainConfig().preset
        yield (f"the preset {preset} does not read {' and '.join(passed)}: --preset moments does")
