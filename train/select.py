"""Which epoch's weights are kept.

`mask`: the highest mean IoU on validation masks. `weak`: without masks, the highest weak score, see
`weak_score`. `last`: the last epoch, whose averaged weights need no validation case.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from wsseg.imaging.errors import WssegError

Rule = Literal["mask", "weak", "last"]


@dataclass(frozen=True)
class Choice:
    """The epoch (from 1) that is kept so far, by which rule, and its score (None for `last`)."""

    epoch: int
    rule: Rule
    score: float | None = None


def choose_rule(
    wanted: Literal["auto", "mask", "weak", "last"], *, cases: int, masks: int, weak: int
) -> Rule:
    """The rule to use, given how many validation cases there are, have a mask, or a weak label.

    `auto` takes the strongest evidence there is. Asking for evidence that no validation case
    carries raises WssegError.
    """
    have = {"mask": masks > 0, "weak": weak > 0, "last": True}
    if wanted == "auto":
        return "mask" if have["mask"] else "weak" if have["weak"] else "last"
    if not have[wanted]:
        need = "a mask" if wanted == "mask" else "a ratio or marks"
        raise WssegError(
            f"select = {wanted}: none of the {cases} validation cases has {need}; "
            "give some rows of the cases file split = val, or choose select = auto"
        )
    return wanted


def weak_score(figures: Mapping[str, float]) -> float:
    """How well predictions agree with ratios and marks alone, from -1 to 1; 1 is full agreement.

    Mean mark recall minus mean relative ratio error, both in 0..1 (see `metrics.summarise`). Recall
    rises when everything is predicted, and the ratio error then rises with it, so neither the full
    nor the empty mask scores well. Evidence that no case carries counts 0.
    """
    return figures.get("mark_recall", 0.0) - figures.get("relative_ratio_error", 0.0)


def score(rule: Rule, figures: Mapping[str, float]) -> float | None:
    """The number to maximise; None for `last` and for an epoch that was not validated."""
    if rule == "last" or not figures:
        return None
    return figures["iou"] if rule == "mask" else weak_score(figures)


def update(best: Choice | None, epoch: int, rule: Rule, figures: Mapping[str, float]) -> Choice:
    """The choice after `epoch`: the best score, the later epoch on a tie.

    An epoch without validation replaces only an epoch without validation.
    """
    value = score(rule, figures)
    if best is None or best.score is None:
        return Choice(epoch, rule, value)
    if value is None or value < best.score:
        return best
    return Choice(epoch, rule, value)
