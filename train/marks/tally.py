"""What a simulation came to: marked, replaced and kept cases, in a line and in warnings."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wsseg.train.marks.options import MarkOptions


@dataclass(frozen=True)
class Outcome:
    """What became of one row. split: as the table states it, empty where it states none.

    chosen: it is of the share to mark. marked: there was a region to mark. before: the table held
    marks of this sort already.
    """

    split: str
    chosen: bool
    marked: bool
    before: bool


def closing(outcomes: Sequence[Outcome], options: MarkOptions) -> str:
    """One line: how many cases are marked, what became of earlier marks, how far ratios err."""
    marked = [outcome for outcome in outcomes if outcome.marked]
    splits = Counter(outcome.split for outcome in marked if outcome.split)
    of_each = f" ({', '.join(f'{name} {count}' for name, count in splits.items())})"
    replaced = sum(outcome.chosen and outcome.before for outcome in outcomes)
    kept = sum(outcome.before and not outcome.chosen for outcome in outcomes)
    return "".join(
        (
            f"marked {len(marked)} of {len(outcomes)} cases{of_each if splits else ''}",
            f"; earlier marks of {replaced} replaced" if replaced else "",
            f"; {kept} others keep the marks they had" if kept else "",
            f"; ratios with up to {options.ratio_noise:g} % error" if options.ratio_noise else "",
        )
    )


def doubts(
    outcomes: Sequence[Outcome], options: MarkOptions, percent: float | None
) -> Iterator[str]:
    """What was asked for but may not be meant. percent: of a region, None where not asked for."""
    asked = {"share": options.share, "ratio noise": options.ratio_noise, "percent": percent}
    for name, value in asked.items():
        if value is not None and 0 < value < 1:
            yield (
                f"{name} {value:g} is read as {value:g} percent; "
                f"if the fraction {value:g} is meant, write {100 * value:g}"
            )
    if options.share > 0 and not any(outcome.marked for outcome in outcomes):
        yield "no case was marked: none of those chosen has a pixel of a region; raise the share"
