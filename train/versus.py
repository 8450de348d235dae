"""A student beside its teacher on the same cases: what each gets right, and in what time."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wsseg.imaging.definitions import mask_iou
from wsseg.train.case_pixels import read_image
from wsseg.train.dataset import CaseDataset
from wsseg.train.evaluate import count
from wsseg.train.metrics import summarise
from wsseg.train.predictor import Predictor
from wsseg.train.record import Comparison

TIMED = 5
"""Slices that are timed, evenly spread over the cases."""
REPEATS = 3
"""Times that each of them is timed, after one that is not."""


@torch.no_grad()
def compare(
    student: Predictor,
    teacher: Predictor,
    cases: CaseDataset,
    places: Sequence[int],
    thresholds: tuple[tuple[float, ...], tuple[float, ...]],
) -> Comparison:
    """Both predictors, in `eval()` and on one device, on the cases at these places, of which there
    is at least one.

    thresholds: of the student and of the teacher, from which probability on a pixel belongs to each
    class.
    """
    limits = [torch.tensor(own)[:, None, None] for own in thresholds]
    of_student, of_teacher, agreed = [], [], []
    for place in places:
        native, case = cases.native(place), cases.cases[place]
        maps = [_answer(model, cases, place).cpu() for model in (student, teacher)]
        of_student.append(count(case, native, maps[0], cases.denominators, thresholds[0]))
        of_teacher.append(count(case, native, maps[1], cases.denominators, thresholds[1]))
        masks = [(own >= limit).numpy() for own, limit in zip(maps, limits, strict=True)]
        agreed.append(float(mask_iou(*masks).mean()))
    return Comparison(
        cases=len(places),
        student=summarise(of_student),
        teacher=summarise(of_teacher),
        agreement=float(np.mean(agreed)),
        relative_time=relative_time(student, teacher, cases, places),
    )


def relative_time(
    student: Predictor, teacher: Predictor, cases: CaseDataset, places: Sequence[int]
) -> float:
    """Median time of a slice by the student over that by the teacher, both in PyTorch.

    One slice at a time, by turns, so that whatever else the machine does slows down both.
    """
    timed = places[:: max(1, len(places) // TIMED)][:TIMED]
    seconds: tuple[list[float], list[float]] = ([], [])
    for place in timed:
        for repeat in range(REPEATS + 1):
            for model, taken in zip((student, teacher), seconds, strict=True):
                took = _seconds(model, cases, place)
                if repeat:  # the first is slowed by memory that has to be found
                    taken.append(took)
    return float(np.median(seconds[0]) / np.median(seconds[1]))


def described(run: str, compared: Comparison) -> str:
    """One line on a comparison, with what the cases have evidence for."""
    shown = [name for name in ("iou", "ratio_error") if name in compared.student]
    figures = [
        f"{name} {compared.student[name]:.3f} (teacher {compared.teacher[name]:.3f})"
        for name in shown
    ]
    figures.append(f"IoU of the two {compared.agreement:.3f}")
    return (
        f"beside its teacher {run}, on {compared.cases} cases: {', '.join(figures)}; a slice takes "
        f"{compared.relative_time:.2g} of the teacher's time"
    )


def _answer(model: Predictor, cases: CaseDataset, place: int) -> Tensor:
    probability: Tensor = model(_raw(model, cases, place))[0]
    return probability


def _raw(model: Predictor, cases: CaseDataset, place: int) -> Tensor:
    image = read_image(cases.cases[place], model.front.channels)
    return torch.from_numpy(image)[None].to(next(model.parameters()).device)


@torch.no_grad()
def _seconds(model: Predictor, cases: CaseDataset, place: int) -> float:
    raw = _raw(model, cases, place)
    _wait(raw.device)
    began = time.perf_counter()
    model(raw)
    _wait(raw.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given: it does not answer before it is asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
