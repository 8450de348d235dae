"""Which cases belong to one patient: groups, however they are spelt."""

from collections.abc import Sequence

from wsseg.imaging.table import plain_text
from wsseg.train.case import Case


def group_key(case: Case) -> tuple[str, str]:
    """What the cases of one group have in common.

    Capitals, blanks and the form of accents tell no groups apart: p1, P1 and "P 1" are one.
    Slices of one file belong together even where no group says so.
    """
    if case.group:
        return "group", "".join(plain_text(case.group).casefold().split())
    return "image", str(case.image)


def one_spelling(cases: Sequence[Case]) -> list[tuple[str, str]]:
    """The group of each case, by the first in order of the spellings that it has."""
    spelt: dict[tuple[str, str], str] = {}
    for case in cases:
        key = group_key(case)
        name = case.group or str(case.image)
        spelt[key] = min(spelt.get(key, name), name)
    return [(group_key(case)[0], spelt[group_key(case)]) for case in cases]
