"""run.json: what a finished run says of its network, so that export needs nothing else."""

from typing import Literal

from wsseg.imaging.definitions import Frozen, RatioDefinition, Window
from wsseg.train.config import NetworkName

RECORD = "run.json"
WEIGHTS = "weights.safetensors"
SAMPLES = "samples.npz"


class RunRecord(Frozen):
    """The network's description; weights and sample slices lie beside it.

    `weights.safetensors` holds the chosen weights, `samples.npz` a few raw validation slices,
    float32 (c, H, W), on which export proves its engines. metrics: of the chosen epoch on the
    validation split, at a threshold of 0.5; chosen_by: the rule that chose it. thresholds: one
    probability a class, from which on a pixel counts, fitted to the ratios of training images.
    """

    classes: tuple[str, ...]
    ratios: tuple[RatioDefinition, ...]
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
    wsseg_version: str
