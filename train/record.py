"""run.json: what a finished run says of its network, so that export needs nothing else."""

from typing import Literal

from pydantic import Field

from wsseg.imaging.definitions import Dependence, Frozen, RatioDefinition, Seen, Window
from wsseg.train.config import NetworkName

RECORD = "run.json"
WEIGHTS = "weights.safetensors"
SAMPLES = "samples.npz"


class Comparison(Frozen):
    """A student and its teacher on the same cases, validation cases where there are any.

    student, teacher: figures of `metrics.summarise`, each at its own thresholds. agreement: mean
    IoU of the two masks with each other. relative_time: of a slice, the student's over the
    teacher's, both in PyTorch on the machine that trained the student.
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


class Normalisation(Frozen):
    """Which batch-norm statistics were kept: those averaged in training, or taken anew.

    Anew: over training images, with the weights of the chosen epoch or of the last one, see
    `train.normalisation`. epoch: whose weights are kept. averaged_score, anew_score (of the better
    epoch): by the rule that chooses epochs, at a threshold of 0.5, on `cases` of the `split`
    (training cases where none is for validation); None where nothing could be compared.
    """

    kept: Literal["averaged", "anew"]
    epoch: int
    split: Literal["val", "train"] = "val"
    cases: int = 0
    averaged_score: float | None = None
    anew_score: float | None = None


class RunRecord(Frozen):
    """The network's description; weights and sample slices lie beside it.

    `weights.safetensors` holds the chosen weights, `samples.npz` a few raw validation slices,
    float32 (c, H, W), on which export proves its engines. chosen_by: the rule that chose the epoch,
    by figures at a threshold of 0.5. thresholds: one probability a class, from which on a pixel
    counts, fitted to the ratios of training images. metrics: of the kept network on the validation
    split, at these thresholds. labels: what stood for each class in the label files; empty where
    class k was number k. normalisation: which batch-norm statistics are kept. dependence: whether
    masks depend on the image. teacher: None for a run that was taught by its cases alone. seen:
    what the training images were. None in the record of an earlier version.
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
    normalisation: Normalisation | None = None
    dependence: Dependence | None = None
    teacher: TeacherRecord | None = None
    seen: Seen | None = None
    wsseg_version: str
