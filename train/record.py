"""run.json: what a finished run says of its network, so that export needs nothing else."""

from typing import Literal

from pydantic import Field

from wsseg.imaging.definitions import Frozen, RatioDefinition, Seen, Window
from wsseg.train.config import NetworkName

RECORD = "run.json"
WEIGHTS = "weights.safetensors"
SAMPLES = "samples.npz"


class Comparison(Frozen):
    """A student and its teacher on the same cases, validation cases where there are any.

    student, teacher: figures of `metrics.summarise`. agreement: mean IoU of the two masks with each
    other. relative_time: of a slice, the student's over the teacher's, both in PyTorch on the
    machine that trained the student.
    """

    cases: int
    student: dict[str, float]
    teacher: dict[str, float]
    agreement: float
    relative_time: float


class TeacherRecord(Frozen):
    """The run that taught this one: its folder's name, its network, and how the two compare."""

    run: str
    network: NetworkName
    weights_sha256: str
    comparison: Comparison


class RunRecord(Frozen):
    """The network's description; weights and sample slices lie beside it.

    `weights.safetensors` holds the chosen weights, `samples.npz` a few raw validation slices,
    float32 (c, H, W), on which export proves its engines. metrics: of the chosen epoch on the
    validation split, at a threshold of 0.5; chosen_by: the rule that chose it. thresholds: one
    probability a class, from which on a pixel counts, fitted to the ratios of training images.
    labels: what stood for each class in the label files; empty where class k was number k.
    teacher: None for a run that was taught by its cases alone. seen: what the training images
    were; None in the record of an earlier version.
    """

    classes: tuple[str, ...]
    ratios: tuple[RatioDefinition, ...]
    labels: dict[str, tuple[int | str, ...]] = Field(default_factory=dict)
    channels: Literal[1, 3]
    window: Window
    size: int
    network: NetworkName
    preset: str
    initial_weights: str
    cases: int
    cases_sha256: str
    epochs: int
    chosen_epoch: int
    chosen_by: str
    seed: int
    metrics: dict[str, float]
    thresholds: tuple[float, ...]
    teacher: TeacherRecord | None = None
    seen: Seen | None = None
    wsseg_version: str
