"""How fast which parameters learn, as functions of the step, so that nothing needs saving."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from wsseg.train.config import SelfTraining, TrainConfig

POLY_POWER = 0.9  # the usual power for DeepLab


def rate_factor(step: int, steps: int, warmup: float, kind: Literal["poly", "cosine"]) -> float:
    """Learning rate at `step` (from 0) of `steps` relative to its peak, 0 < factor <= 1.

    Rises linearly over the first `warmup` fraction of all steps, then falls: by (1 - t) ** 0.9
    (poly) or by half a cosine, where t runs from 0 after warm-up to 1 at the end.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    done = (step - rising) / (steps - rising)
    return (1 - done) ** POLY_POWER if kind == "poly" else (1 + math.cos(math.pi * done)) / 2


def ema_decay(decay: float, updates: int) -> float:
    """Decay of the weight average after `updates` of it: rises from 0.1 to `decay`.

    The average forgets the first, random weights quickly and becomes smooth later.
    """
    return min(decay, (1 + updates) / (10 + updates))


def average_with(decay: float) -> Any:
    """The averaging function that torch's AveragedModel calls with lists of equal type.

    Whole numbers, such as a normalisation's batch count, are copied.
    """

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
        if not torch.is_floating_point(averaged[0]):
            torch._foreach_copy_(averaged, current)
            return
        torch._foreach_lerp_(averaged, current, 1 - ema_decay(decay, int(updates)))

    return average


def parameter_groups(network: nn.Module, backbone: nn.Module, config: TrainConfig) -> list[Any]:
    """Groups for AdamW, each with its peak learning rate under `peak`.

    Parameters of `backbone` learn at `backbone_rate` times the rate. Vectors (biases, scales of
    normalisation) are not decayed: decay shrinks what they set, not what they have learned.
    """
    slow = {id(parameter) for parameter in backbone.parameters()}
    groups = []
    for in_backbone in (True, False):
        for decayed in (True, False):
            chosen = [
                parameter
                for parameter in _trained(network.parameters())
                if (id(parameter) in slow) == in_backbone and (parameter.ndim > 1) == decayed
            ]
            peak = config.learning_rate * (config.backbone_rate if in_backbone else 1.0)
            decay = config.weight_decay if decayed else 0.0
            groups.append({"params": chosen, "lr": peak, "peak": peak, "weight_decay": decay})
    return [group for group in groups if group["params"]]


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def _trained(parameters: Iterable[nn.Parameter]) -> Iterable[nn.Parameter]:
    return (parameter for parameter in parameters if parameter.requires_grad)


def renewals(settings: SelfTraining, epochs: int) -> set[int]:
    """The epochs (from 1) before which the targets are renewed; never before the first."""
    places = np.linspace(settings.start, settings.end, settings.rounds)
    return {max(2, 1 + round(float(place) * epochs)) for place in places}
