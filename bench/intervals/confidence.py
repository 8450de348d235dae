"""Whether `confidence` is what it says: reliability, Brier score and expected calibration error."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.intervals.held_out import Floats
from bench.intervals.ours import confidence
from bench.intervals.study import Pair
from wsseg.imaging.files import atomic
from wsseg.serve.confidence import tolerance

BINS = 8


@dataclass(frozen=True)
class Reliability:
    """Confidence against how often the error was within its tolerance, over all test images.

    share: of images within. said, found: mean confidence and share within, for bins of equally many
    images. brier: mean of
    (confidence - outcome)^2. constant: the same if each image got the share over all of them.
    error: mean over the bins of |said - found|.
    """

    share: float
    said: Floats
    found: Floats
    brier: float
    constant: float
    error: float


def reliability(pairs: Sequence[Pair]) -> Reliability:
    """Over the test images of all pairs of calibration and test cases."""
    said = np.concatenate([confidence(calibration, test) for calibration, test in pairs])
    within = np.concatenate(
        [abs(test.true - test.measured) <= tolerance(test.measured) for _, test in pairs]
    ).astype(np.float64)
    bins = np.array_split(np.argsort(said, kind="stable"), BINS)
    means = np.array([[said[chosen].mean(), within[chosen].mean()] for chosen in bins]).T
    return Reliability(
        float(within.mean()),
        means[0],
        means[1],
        float(np.mean((said - within) ** 2)),
        float(within.var()),
        float(abs(means[0] - means[1]).mean()),
    )


def draw(curves: dict[str, Reliability], path: Path) -> None:
    """The curves in one picture, the diagonal being what they should be."""
    from matplotlib.figure import Figure

    figure = Figure((5, 5), layout="constrained")
    panel = figure.subplots()
    panel.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, curve in curves.items():
        panel.plot(curve.said, curve.found, marker="o", label=name)
    panel.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="confidence",
        ylabel="share of images with an error within a tenth of the ratio",
    )
    panel.legend(loc="upper left")
    with atomic(path) as partial:
        figure.savefig(partial, format="png", dpi=120, metadata={"Software": None})
