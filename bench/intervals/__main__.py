"""Coverage and width of the intervals of ratios on held-out images, beside CARE's.

    python -m bench.intervals --data DATA [--work build/accuracy] [--out docs/results]

WORK holds the networks: runs of `bench.accuracy` of busi with the arm wsseg-8, of any folds, and
that of `bench.intervals.train`. The held-out images of each network are divided at random, many
times, into images that calibrate and images that test; groups (patients, near-duplicates) are not
divided. OUT gets intervals.md and intervals.png.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.accuracy.machine import commit, machine
from bench.intervals.confidence import draw, reliability
from bench.intervals.networks import Measured, measured
from bench.intervals.report import by_size, comparison, scales, shifts, sureness
from bench.intervals.study import Pair, within
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import atomic

NAMES = {"busi": "lesions (BUSI)", "kidneys": "kidneys (CT)"}
SHARES = {"busi": 1 / 2, "kidneys": 2 / 3}
"""Of the groups that calibrate: nine of the kidneys' patients are needed at a level of 0.9."""
LEVEL = 0.9


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, default=Path("build/accuracy"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--count", type=int, default=200, help="divisions of each network's images")
    asked = parser.parse_args(arguments)
    try:
        networks = list(measured(asked.data, asked.work))
    except WssegError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    pairs = _pairs(networks, asked.count)
    curves = {name: reliability(each) for name, each in pairs.items()}
    draw(curves, asked.out / "intervals.png")
    with atomic(asked.out / "intervals.md") as partial:
        lines = _report(networks, pairs, asked.count)
        partial.write_text("\n".join([*lines, *sureness(curves)]) + "\n", encoding="utf-8")
    print((asked.out / "intervals.md").read_text(encoding="utf-8"))


def _pairs(networks: list[Measured], count: int) -> dict[str, list[Pair]]:
    """Calibration and test cases by the name of the data."""
    of = {
        name: [network.cases for network in networks if network.dataset == dataset]
        for dataset, name in NAMES.items()
    }
    return {
        name: within(of[name], SHARES[dataset], count)
        for dataset, name in NAMES.items()
        if of[name]
    }


def _report(networks: list[Measured], pairs: dict[str, list[Pair]], count: int) -> Iterator[str]:
    yield "# Intervals of ratios"
    yield ""
    yield f"`python -m bench.intervals`, commit {commit()}, {machine()}, {count} divisions of each"
    yield "network's held-out images. Means over divisions and networks; in brackets, the middle"
    yield "nine tenths of the divisions. Widths are fractions of the image."
    yield ""
    for network in networks:
        cases = network.cases
        groups = len(set(cases.group.tolist()))
        yield (
            f"- {NAMES[network.dataset]}: {len(cases)} images in {groups} groups, IoU "
            f"{cases.iou.mean():.3f}, mean ratio {cases.true.mean():.3f}"
        )
    yield from ("", "## Coverage and width", "", *comparison(pairs))
    yield from ("", "## Other scales of the error", "", *scales(pairs))
    yield from ("", f"## By size of the region, level {LEVEL:g}", "", *by_size(pairs, LEVEL))
    lesions = [network for network in networks if network.dataset == "busi"]
    if lesions:
        yield from ("", f"## Lesions after a shift, level {LEVEL:g}", "")
        yield from shifts(lesions, LEVEL, count)
    yield from ("", "## Confidence", "")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
