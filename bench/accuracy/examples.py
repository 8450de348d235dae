"""A picture of the best, the middle and the worst held-out images of some runs.

    python -m bench.accuracy.examples RUN... --data DATA [--work WORK] [--out docs/results]

RUN is the name of a run in OUT/accuracy/ whose network still lies in WORK; the first one decides
which images are shown. The images become part of the picture: only data sets whose licence allows
that can be shown.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from bench.accuracy.datasets import DATASETS, Picture, label_map
from bench.accuracy.held_out import predict
from bench.accuracy.jobs import Job
from bench.accuracy.results import key_of, read_images, read_rows
from wsseg.imaging.definitions import mask_iou
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import atomic
from wsseg.imaging.reading import read_slice
from wsseg.train.run_folder import load_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWABLE = ("busi",)
"""Data sets whose images may be published: CC BY 4.0."""
PLACES = {"best": 0.97, "good": 0.75, "middle": 0.5, "poor": 0.25, "worst": 0.03}
"""Rank of the shown images by IoU; not the very ends, which are often odd images."""
TRUE, FOUND = "#ffd500", "#00c8ff"


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("build/accuracy"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    asked = parser.parse_args()
    try:
        draw_examples(asked.runs, asked.data, asked.work, asked.out)
    except WssegError as error:
        sys.exit(str(error))


def draw_examples(names: Sequence[str], data: Path, work: Path, out: Path) -> None:
    """Draw a row of images for every run into `out`/accuracy-examples.png."""
    jobs = [_job(out, name) for name in names]
    dataset = DATASETS[jobs[0].dataset]
    pictures = dataset.read(data / dataset.folder)
    shown = {label: pictures[number] for label, number in _ranked(out, jobs[0]).items()}
    _draw(jobs, shown, work, out / "accuracy-examples.png")


def _job(out: Path, name: str) -> Job:
    jobs = {key_of(row).name: key_of(row) for row in read_rows(out)}
    if name not in jobs:
        raise WssegError(f"there is no run {name} in {out}: its names are those in accuracy/")
    if jobs[name].dataset not in SHOWABLE:
        raise WssegError(f"images of {jobs[name].dataset} may not be published: show {SHOWABLE[0]}")
    return jobs[name]


def _ranked(out: Path, job: Job) -> dict[str, int]:
    """Number of the picture at each of the places."""
    scores = sorted(read_images(out, job), key=lambda score: score.iou)
    last = len(scores) - 1
    return {label: scores[round(place * last)].image for label, place in PLACES.items()}


def _draw(jobs: Sequence[Job], shown: dict[str, Picture], work: Path, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((2.6 * len(shown), 2.5 * len(jobs)), layout="constrained")
    panels = figure.subplots(len(jobs), len(shown), squeeze=False)
    for job, row in zip(jobs, panels, strict=True):
        run, dataset = load_run(work / job.name / "run"), DATASETS[job.dataset]
        for (label, picture), panel in zip(shown.items(), row, strict=True):
            found = predict(run, picture.image, torch.device("cpu"))[0]
            true = label_map(dataset, picture) > 0
            _show(panel, picture, {TRUE: true, FOUND: found})
            panel.set_title(f"{job.arm}, {label}: IoU {mask_iou(true, found):.2f}", fontsize=8)
    figure.supxlabel("yellow: true outline, blue: prediction", fontsize=9)
    with atomic(path) as partial:
        figure.savefig(partial, dpi=120)


def _show(panel: "Axes", picture: Picture, outlines: dict[str, NDArray[np.bool_]]) -> None:
    panel.imshow(read_slice(picture.image), cmap="gray")
    for colour, mask in outlines.items():
        if mask.any():
            panel.contour(mask, [0.5], colors=[colour], linewidths=1.2)
    panel.set_axis_off()


if __name__ == "__main__":
    main()
