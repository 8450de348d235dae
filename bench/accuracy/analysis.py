"""From rows and single images to the figures of each arm, with bootstrap intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.accuracy.arms import ARMS
from bench.accuracy.jobs import Job
from bench.accuracy.results import ImageScore, key_of, read_images
from wsseg.imaging.errors import WssegError

DRAWS = 2000
REFERENCE = "full"

Interval = tuple[float, float]
Run = tuple[Job, Mapping[str, str]]


@dataclass(frozen=True, order=True)
class Section:
    """Runs that may be compared: same data, network and budget."""

    dataset: str
    network: str
    size: int
    epochs: int


@dataclass(frozen=True)
class Figures:
    """One arm in a section. iou: per image, over all its folds, averaged over its seeds.

    deviation: standard deviation of the mean IoU over runs, None for a single one. of_full: iou
    over that of full supervision on the folds that both have, None without it. Intervals: 95 %,
    from resampling whole groups of images (patients, near-duplicates); they do not hold the
    variation from seed to seed.
    """

    arm: str
    runs: int
    iou: float
    interval: Interval
    deviation: float | None
    pooled: float
    dice: float
    ratio_mae: float
    of_full: float | None
    of_full_interval: Interval | None


@dataclass(frozen=True)
class _Sums:
    """IoU of each class and group, summed over the images that show the class, and their number."""

    iou: NDArray[np.float64]
    images: NDArray[np.float64]

    def means(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean over images, then classes, for each row (n, groups) of weights of the groups."""
        with np.errstate(invalid="ignore"):
            per_class = (weights @ self.iou.T) / (weights @ self.images.T)
        means: NDArray[np.float64] = np.nanmean(per_class, axis=1)
        return means


def sections(rows: Sequence[Mapping[str, str]]) -> dict[Section, list[Run]]:
    """The runs of every section, in order of data set, network, size and epochs."""
    found: dict[Section, list[Run]] = {}
    for row in rows:
        job = key_of(row)
        section = Section(job.dataset, job.network, job.size, job.epochs)
        found.setdefault(section, []).append((job, row))
    return dict(sorted(found.items()))


def figures(out: Path, runs: Sequence[Run]) -> list[Figures]:
    """The figures of a section's arms, in the order in which arms are listed."""
    by_arm: dict[str, list[Run]] = {}
    for run in runs:
        by_arm.setdefault(run[0].arm, []).append(run)
    scores = {job: _scores(out, job) for job, _ in runs}
    full = [job for job, _ in by_arm.get(REFERENCE, [])]
    ordered = sorted(by_arm, key=list(ARMS).index)
    return [_figures(by_arm[arm], full, scores) for arm in ordered]


def _figures(
    runs: Sequence[Run], full: Sequence[Job], scores: Mapping[Job, Sequence[ImageScore]]
) -> Figures:
    own = [job for job, _ in runs]
    means = [float(row["iou_mean"]) for _, row in runs]
    sums = _sums(own, scores)
    common = {job.fold for job in own} & {job.fold for job in full}
    shares = _shares(own, full, scores, common) if common else None
    return Figures(
        arm=own[0].arm,
        runs=len(runs),
        iou=_point(sums),
        interval=_interval(sums.means(_weights(sums))),
        deviation=float(np.std(means, ddof=1)) if len(means) > 1 else None,
        pooled=_mean(runs, "iou_pooled"),
        dice=_mean(runs, "dice_mean"),
        ratio_mae=_mean(runs, "ratio_mae"),
        of_full=None if shares is None else shares[0],
        of_full_interval=None if shares is None else shares[1],
    )


def _shares(
    own: Sequence[Job],
    full: Sequence[Job],
    scores: Mapping[Job, Sequence[ImageScore]],
    folds: set[int],
) -> tuple[float, Interval]:
    """IoU of an arm over full supervision's: the same images in every draw."""
    arm, reference = (
        _sums([job for job in jobs if job.fold in folds], scores) for jobs in (own, full)
    )
    weights = _weights(arm)
    share = _point(arm) / _point(reference)
    return share, _interval(arm.means(weights) / reference.means(weights))


def _sums(jobs: Sequence[Job], scores: Mapping[Job, Sequence[ImageScore]]) -> _Sums:
    """Sums of the jobs' images; several seeds of one fold are averaged."""
    groups = sorted({(job.fold, score.group) for job in jobs for score in scores[job]})
    place = {group: number for number, group in enumerate(groups)}
    classes = max(score.class_number for job in jobs for score in scores[job])
    iou, images = np.zeros((classes, len(groups))), np.zeros((classes, len(groups)))
    for job in jobs:
        repeated = sum(other.fold == job.fold for other in jobs)
        for score in scores[job]:
            if score.ratio > 0:
                where = score.class_number - 1, place[job.fold, score.group]
                iou[where] += score.iou / repeated
                images[where] += 1 / repeated
    return _Sums(iou, images)


def _weights(sums: _Sums) -> NDArray[np.float64]:
    """How often each group is drawn, in each of the draws; the same for the same groups."""
    groups = sums.iou.shape[1]
    random = np.random.default_rng(0)
    return random.multinomial(groups, np.full(groups, 1 / groups), size=DRAWS).astype(np.float64)


def _point(sums: _Sums) -> float:
    return float(sums.means(np.ones((1, sums.iou.shape[1])))[0])


def _interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def _mean(runs: Sequence[Run], column: str) -> float:
    return float(np.mean([float(row[column]) for _, row in runs]))


def _scores(out: Path, job: Job) -> list[ImageScore]:
    scores = read_images(out, job)
    if not scores:
        raise WssegError(f"the single images of {job.name} are missing: run it again with --redo")
    return scores
