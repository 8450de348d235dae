"""Distillation: a finished run as the teacher of another network, and how the two compare."""

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from wsseg.imaging.definitions import mask_iou
from wsseg.imaging.errors import WssegError
from wsseg.train.cases.files import read_image
from wsseg.train.config import TrainConfig
from wsseg.train.data.dataset import CaseDataset
from wsseg.train.distributed import gathered, rank, world_size
from wsseg.train.fabric import Fabric
from wsseg.train.metrics import summarise
from wsseg.train.networks import Network, Predictor
from wsseg.train.run_folder import WEIGHTS, Comparison, RunFacts, load_run
from wsseg.train.targets.case_targets import FULL
from wsseg.train.validation import count

TIMED = 5
"""Slices that are timed, evenly spread over the cases."""
REPEATS = 3
"""How often each slice is timed, after one run that is not timed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teacher:
    """A finished run that teaches: its predictor, frozen and in `eval()`.

    run: name of the run's folder. sha256: hash of its weights. thresholds: its thresholds, one a
    class.
    """

    run: str
    sha256: str
    predictor: Predictor
    thresholds: tuple[float, ...]

    @property
    def network(self) -> Network:
        """The teacher's network, whose kind, size and channels may differ from the student's."""
        return self.predictor.network


def find_teacher(
    config: TrainConfig, classes: tuple[str, ...], device: torch.device
) -> Teacher | None:
    """Return the run that the setting `distill` names, on the device; None where it names none.

    Raises WssegError for a folder that holds no finished run, and for a run of other classes.
    """
    if config.distill is None:
        return None
    trained = load_run(config.distill)
    if trained.record.classes != classes:
        raise WssegError(
            f"the teacher {config.distill} knows the classes {', '.join(trained.record.classes)}, "
            f"the cases have {', '.join(classes)}: a student learns the same ones in the same "
            "order; name the columns alike, or distil another run"
        )
    sha256 = hashlib.sha256((config.distill / WEIGHTS).read_bytes()).hexdigest()
    predictor = trained.predictor.requires_grad_(False).to(device)
    return Teacher(config.distill.resolve().name, sha256, predictor, trained.record.thresholds)


def with_teacher(facts: RunFacts, teacher: Teacher) -> RunFacts:
    """Return the facts of a run with its teacher's hash.

    Raises WssegError if the run is resumed and began with other weights of its teacher.
    """
    before = facts.teacher
    if before is not None and before != teacher.sha256:
        raise WssegError(
            f"the weights of the teacher {teacher.run} have changed since the run began (sha256 "
            f"{before[:12]}, now {teacher.sha256[:12]}): restore them, or train with another --out"
        )
    return facts.model_copy(update={"teacher": teacher.sha256})


def teach(fabric: Fabric, teacher: Teacher, cases: CaseDataset, config: TrainConfig) -> None:
    """Give every case the teacher's prediction, as `TargetStore.soft`.

    This is done once, before the first step, also of a resumed run: the maps move with their images
    as masks do, and a step costs no more than without a teacher. If training mirrors images, a map
    is the mean of those of the image and of its mirror image. Each process predicts a part of the
    cases, one at a time, so that the number of processes changes nothing; all get all maps.
    """
    log.info("predicting %d training cases with the teacher %s", len(cases), teacher.run)
    front, network, size = teacher.predictor.front, teacher.network, config.size
    maps = []
    for index in range(rank(), len(cases), world_size()):
        case = cases.cases[index]
        raw = torch.from_numpy(read_image(case, front.channels))[None]
        with torch.no_grad():
            image = front(raw.to(fabric.device))
            probability = soft_map(network, image, size)
            if config.augmentation.flip_horizontal > 0:
                probability = (probability + soft_map(network, image.flip(3), size).flip(3)) / 2
        if not torch.isfinite(probability).all():
            raise WssegError(
                f"the teacher {teacher.run} predicts values that are not finite for the image in "
                f"line {case.row}: check that image, or distil another run"
            )
        maps.append((index, (probability[0] * FULL).round().to(torch.uint8).cpu()))
    cases.targets.soft = dict(gathered(maps))


def soft_map(
    network: Network, image: Float[Tensor, "n 3 h w"], size: int
) -> Float[Tensor, "n k s s"]:
    """Return the probability 0..1 of every class on a square grid of `size`.

    The coarse logits of the square image are resized directly to it, as in `Predictor`.
    """
    coarse = network.coarse_logits(image)
    return F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False).sigmoid()


@torch.no_grad()
def compare(
    student: Predictor,
    teacher: Predictor,
    cases: CaseDataset,
    indices: Sequence[int],
    thresholds: tuple[tuple[float, ...], tuple[float, ...]],
) -> Comparison:
    """Compare both predictors, in `eval()` and on one device, on the cases at these indices.

    There is at least one index. thresholds: the student's and the teacher's, one a class.
    """
    limits = [torch.tensor(own)[:, None, None] for own in thresholds]
    of_student, of_teacher, agreed = [], [], []
    for index in indices:
        native, case = cases.native(index), cases.cases[index]
        maps = [model(_raw(model, cases, index))[0].cpu() for model in (student, teacher)]
        of_student.append(count(case, native, maps[0], cases.denominators, thresholds[0]))
        of_teacher.append(count(case, native, maps[1], cases.denominators, thresholds[1]))
        masks = [(own >= limit).numpy() for own, limit in zip(maps, limits, strict=True)]
        agreed.append(float(mask_iou(*masks).mean()))
    return Comparison(
        cases=len(indices),
        student=summarise(of_student),
        teacher=summarise(of_teacher),
        agreement=float(np.mean(agreed)),
        relative_time=relative_time(student, teacher, cases, indices),
    )


def relative_time(
    student: Predictor, teacher: Predictor, cases: CaseDataset, indices: Sequence[int]
) -> float:
    """Return the student's median time for a slice divided by the teacher's, in PyTorch.

    The two take turns, one slice at a time, so that other load on the machine slows down both.
    """
    timed = indices[:: max(1, len(indices) // TIMED)][:TIMED]
    seconds: tuple[list[float], list[float]] = ([], [])
    for index in timed:
        for repeat in range(REPEATS + 1):
            for model, taken in zip((student, teacher), seconds, strict=True):
                raw = _raw(model, cases, index)
                _wait(raw.device)
                began = time.perf_counter()
                with torch.no_grad():
                    model(raw)
                _wait(raw.device)
                took = time.perf_counter() - began
                if repeat:  # the first is slowed by memory that has to be found
                    taken.append(took)
    return float(np.median(seconds[0]) / np.median(seconds[1]))


def described(run: str, compared: Comparison) -> str:
    """Return one line on a comparison, with the figures that the cases have evidence for."""
    shown = [name for name in ("iou", "ratio_error") if name in compared.student]
    figures = [
        f"{name} {compared.student[name]:.3f} (teacher {compared.teacher[name]:.3f})"
        for name in shown
    ]
    figures.append(f"IoU of the two {compared.agreement:.3f}")
    return (
        f"compared with the teacher {run} on {compared.cases} cases: {', '.join(figures)}; a slice "
        f"takes {compared.relative_time:.2g} of the teacher's time"
    )


def _raw(model: Predictor, cases: CaseDataset, index: int) -> Tensor:
    image = read_image(cases.cases[index], model.front.channels)
    return torch.from_numpy(image)[None].to(next(model.parameters()).device)


def _wait(device: torch.device) -> None:
    """Wait until the device has finished: CUDA computes asynchronously."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
