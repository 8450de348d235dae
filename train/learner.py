"""A network in training: the optimiser step, its schedules, and the second view of a batch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from wsseg.imaging.errors import WssegError
from wsseg.train.config import SelfTraining, TrainConfig
from wsseg.train.data.batch import Batch, Outputs
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.distributed import convert, gathered, rank, set_step, world_size
from wsseg.train.fabric import Fabric
from wsseg.train.losses import Objective
from wsseg.train.networks import Network, Predictor

POLY_POWER = 0.9  # the usual power for DeepLab
STEEPEST_DEGREES = 20.0
SMALLEST_SCALE = 0.7
"""Least scale of the image: small regions must stay larger than a cell of the network's output."""
TOTAL = "total"
GRADIENT = "gradient"


def rate_factor(step: int, steps: int, warmup: float, kind: Literal["poly", "cosine"]) -> float:
    """Return the learning rate at `step` (from 0) of `steps`, relative to its peak (0, 1].

    Rises linearly over the first `warmup` fraction of all steps, then falls: by (1 - t) ** 0.9
    (poly) or by half a cosine, where t runs from 0 after warm-up to 1 at the end.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    done = (step - rising) / (steps - rising)
    return (1 - done) ** POLY_POWER if kind == "poly" else (1 + math.cos(math.pi * done)) / 2


def ema_decay(decay: float, updates: int) -> float:
    """Return the decay of the weight average after `updates`: it rises from 0.1 to `decay`.

    The average forgets the first, random weights quickly and becomes smooth later.
    """
    return min(decay, (1 + updates) / (10 + updates))


def average_with(decay: float) -> Any:
    """Return the averaging function for torch's AveragedModel.

    Integers, such as the batch count of a batch norm, are copied.
    """

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
        if not torch.is_floating_point(averaged[0]):
            torch._foreach_copy_(averaged, current)
            return
        torch._foreach_lerp_(averaged, current, 1 - ema_decay(decay, int(updates)))

    return average


def parameter_groups(network: nn.Module, backbone: nn.Module, config: TrainConfig) -> list[Any]:
    """Return the parameter groups for AdamW, each with its peak learning rate under `peak`.

    Parameters of `backbone` learn at `backbone_rate` times the rate. Vectors (biases, scales of
    normalisation) have no weight decay.
    """
    slow = {id(parameter) for parameter in backbone.parameters()}
    groups = []
    for in_backbone in (True, False):
        for decayed in (True, False):
            chosen = [
                parameter
                for parameter in network.parameters()
                if parameter.requires_grad
                and (id(parameter) in slow) == in_backbone
                and (parameter.ndim > 1) == decayed
            ]
            peak = config.learning_rate * (config.backbone_rate if in_backbone else 1.0)
            decay = config.weight_decay if decayed else 0.0
            groups.append({"params": chosen, "lr": peak, "peak": peak, "weight_decay": decay})
    return [group for group in groups if group["params"]]


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def self_training_epochs(settings: SelfTraining, epochs: int) -> set[int]:
    """Return the epochs (from 1) before which targets are renewed; never the first."""
    shares = np.linspace(settings.start, settings.end, settings.rounds)
    return {max(2, 1 + round(float(share) * epochs)) for share in shares}


@dataclass(frozen=True)
class View:
    """A second view of a batch, for consistency losses: flipped, rotated and scaled images.

    back: for each image the 2 x 2 matrix from positions in the view to positions in the original,
    as (x, y) from the centre, with the sides of the square frame at -1 and 1. The whole original is
    in view; pixels beyond it are 0.
    """

    back: Float[Tensor, "b 2 2"]

    def apply(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the images as the view shows them: bilinear, 0 beyond their edges."""
        return _sampled(image, self.back, "zeros")

    def undo(self, logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """Return maps of the view in the frame of the original: undo(apply(x)) is nearly x.

        Differentiable in the maps. Beyond the edge the nearest value counts, not 0.
        """
        return _sampled(logits, torch.linalg.inv(self.back), "border")


def draw_view(count: int, random: np.random.Generator) -> View:
    """Draw a view for each of `count` images.

    Each image is flipped with probability 1/2 along either axis, rotated by any number of quarter
    turns and by up to `STEEPEST_DEGREES` either way, and scaled down: at least until its corners
    are in the frame, at most by `SMALLEST_SCALE`.
    """
    flips = random.choice((-1.0, 1.0), (count, 2))
    quarters = random.integers(4, size=count)
    tilts = np.radians(random.uniform(-STEEPEST_DEGREES, STEEPEST_DEGREES, count))
    largest = 1 / (np.abs(np.cos(tilts)) + np.abs(np.sin(tilts)))
    scales = random.uniform(np.minimum(SMALLEST_SCALE, largest), largest)
    angles = quarters * (math.pi / 2) + tilts
    cosines, sines = np.cos(angles), np.sin(angles)
    turns = np.array([[cosines, -sines], [sines, cosines]]).transpose(2, 0, 1)
    back = turns * flips[:, None, :] / scales[:, None, None]
    return View(torch.from_numpy(back).float())


def _sampled(
    maps: Float[Tensor, "b n h w"], back: Float[Tensor, "b 2 2"], padding: str
) -> Float[Tensor, "b n h w"]:
    """Sample maps at the positions that the matrices give for each pixel centre."""
    height, width = maps.shape[-2:]
    maps = maps if maps.dtype == torch.float64 else maps.float()
    matrices = back.to(maps)
    x = (torch.arange(width, device=maps.device, dtype=maps.dtype) * 2 + 1) / width - 1
    y = (torch.arange(height, device=maps.device, dtype=maps.dtype) * 2 + 1) / height - 1
    # Products by hand: matmul, as affine_grid has it, would round places to bfloat16 in autocast.
    places = x.view(1, 1, -1, 1) * matrices[:, None, None, :, 0]
    places = places + y.view(1, -1, 1, 1) * matrices[:, None, None, :, 1]
    return F.grid_sample(maps, places, mode="bilinear", padding_mode=padding, align_corners=False)


class _AsTuple(nn.Module):
    """The network with a tuple as output: Fabric does not look into frozen dataclasses."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, Tensor]:
        outputs: Outputs = self.network(image)
        return outputs.logits, outputs.reconstruction


@dataclass(frozen=True)
class Plan:
    """What is learnt, and for how long.

    rows: for each training case its line in the table, for messages. steps: number of steps of the
    whole run.
    """

    config: TrainConfig
    objective: Objective
    rows: tuple[int, ...]
    steps: int


@dataclass(frozen=True)
class Learner:
    """A network in training.

    module: `network` under Fabric's precision and processes. average: the exponential moving
    average of the network, which is validated and kept (the mean teacher).
    """

    fabric: Fabric
    network: Network
    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel
    preprocess: Preprocess
    plan: Plan

    def step(self, share: Batch, number: int) -> dict[str, float]:
        """Take step `number` (from 0) of the run on this process's share of the batch.

        Returns the weighted parts of the objective and their sum `total`, means over the batch of
        all processes. A value that is not finite raises WssegError in every process.
        """
        set_rate(self.optimizer, self.rate(number))
        set_step(self.network, number, seed=self.plan.config.seed)
        tensors = {f.name: getattr(share, f.name).to(self.fabric.device) for f in fields(share)}
        batch = Batch(**tensors)
        outputs = self._outputs(batch, number)
        total, parts = self.plan.objective(outputs, batch, number)
        values = torch.stack([part.float() for part in (*parts.values(), total.detach())])
        if world_size() > 1:
            dist.all_reduce(values)
        means = dict(zip((*parts, TOTAL), (values / world_size()).tolist(), strict=True))
        self._require_finite(means, outputs, batch, number)
        self.fabric.backward(total)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.config.clip)
        self._require_finite({GRADIENT: norm.item()}, outputs, batch, number)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.network)
        return means

    def _outputs(self, batch: Batch, number: int) -> Outputs:
        """Return the network's outputs for a batch, and what else the objective reads."""
        needs = self.plan.objective.needs
        image = _laid_out(self.preprocess.normalise(batch.image))
        teacher = None
        if "teacher" in needs:
            with torch.no_grad(), self.fabric.autocast():
                teacher = self.predictor().network(image).logits.sigmoid()
        if "moved" not in needs:
            logits, reconstruction = self.module(image)
            return Outputs(logits, reconstruction, teacher=teacher)
        # One pass over both views: batch norm sees them together, and so does DDP.
        # Drawn for the whole batch, whatever the number of processes, then this one's part taken.
        random = np.random.default_rng((self.plan.config.seed, number))
        count, first = len(image), rank() * len(image)
        view = View(draw_view(world_size() * count, random).back[first : first + count])
        both = self.preprocess.normalise(torch.cat([batch.image, view.apply(batch.image)]))
        logits, reconstruction = self.module(_laid_out(both))
        here, moved = logits.chunk(2)
        return Outputs(here, reconstruction.chunk(2)[0], view.undo(moved), teacher)

    def rate(self, number: int) -> float:
        """Learning rate of step `number` (from 0), relative to its peak."""
        config = self.plan.config
        return rate_factor(number, self.plan.steps, config.warmup, config.schedule)

    def predictor(self) -> Predictor:
        """Return the averaged network with its preprocessing, ready to predict."""
        network = self.average.module
        if not isinstance(network, Network):
            raise AssertionError("the average is a copy of the network")
        return Predictor(self.preprocess, network).eval()

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on besides the data and the step's number."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "objective": self.plan.objective.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state` returned."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.plan.objective.restore(state["objective"])

    def _require_finite(
        self, values: Mapping[str, float], outputs: Outputs, batch: Batch, number: int
    ) -> None:
        wrong = [name for name, value in values.items() if not abs(value) < float("inf")]
        if not wrong:
            return
        sound = torch.isfinite(outputs.logits).flatten(1).all(1).cpu()
        indices = batch.index.cpu() if sound.all() else batch.index.cpu()[~sound]
        suspects = gathered([self.plan.rows[index] for index in indices.tolist()])
        shown = ", ".join(map(str, sorted(suspects)))
        raise WssegError(
            f"step {number + 1} of {self.plan.steps}: {', '.join(wrong)} is not a finite number, "
            f"with rows {shown} of the cases file in the batch; look at these images, lower "
            "learning_rate, or set precision = fp32"
        )


def build_learner(fabric: Fabric, network: Network, preprocess: Preprocess, plan: Plan) -> Learner:
    """Put a network with its first weights on the device; add optimiser and average."""
    if "reconstruction" not in plan.objective.needs:
        # Nothing teaches this head: weight decay must not move it, DDP must not wait for it.
        network.reconstruction.requires_grad_(False)
    convert(network, fabric.device)
    network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(network, multi_avg_fn=average_with(plan.config.ema), use_buffers=True)
    groups = parameter_groups(network, network.backbone, plan.config)
    module, optimizer = fabric.setup(_AsTuple(network), torch.optim.AdamW(groups))
    return Learner(
        fabric=fabric,
        network=network,
        module=module,
        optimizer=optimizer,
        average=average.eval(),
        preprocess=preprocess.to(fabric.device),
        plan=plan,
    )


def _laid_out(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last)
