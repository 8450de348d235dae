"""All that changes while a network learns, and the step that changes it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from wsseg.imaging.errors import WssegError
from wsseg.train.batch import Batch, Outputs
from wsseg.train.config import TrainConfig
from wsseg.train.front import Front
from wsseg.train.networks import Network
from wsseg.train.objective import Objective
from wsseg.train.parallel import convert, gathered, rank, set_step, world_size
from wsseg.train.predictor import Predictor
from wsseg.train.schedule import average_with, parameter_groups, rate_factor, set_rate
from wsseg.train.views import View, draw_view

TOTAL = "total"
GRADIENT = "gradient"


class _AsTuple(nn.Module):
    """The network with a tuple for an answer: Fabric does not look into frozen dataclasses."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, Tensor]:
        outputs: Outputs = self.network(image)
        return outputs.logits, outputs.reconstruction


@dataclass(frozen=True)
class Plan:
    """What is to be learnt, and for how long.

    rows: line of the cases file of each training case, for messages. steps: of the whole run.
    """

    config: TrainConfig
    objective: Objective
    rows: tuple[int, ...]
    steps: int


@dataclass(frozen=True)
class Learner:
    """A network in training. `module` runs `network` under Fabric's precision and processes.

    average: the exponential moving average of the network, which is validated and kept.
    """

    fabric: Fabric
    network: Network
    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel
    front: Front
    plan: Plan

    def step(self, share: Batch, number: int) -> dict[str, float]:
        """One optimiser step, the `number`-th of the run from 0, on this process's share.

        Returns the weighted parts of the objective and their sum `total`, means over the batch of
        all processes. A value that is not finite raises WssegError in every process.
        """
        set_rate(self.optimizer, self.rate(number))
        set_step(self.network, number, seed=self.plan.config.seed)
        batch = _moved(share, self.fabric.device)
        outputs = self._outputs(batch, number)
        total, parts = self.plan.objective(outputs, batch, number)
        means = self._means({**parts, TOTAL: total.detach()})
        self._require_finite(means, outputs, batch, number)
        self.fabric.backward(total)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.config.clip)
        self._require_finite({GRADIENT: norm.item()}, outputs, batch, number)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.network)
        return means

    def _outputs(self, batch: Batch, number: int) -> Outputs:
        """What the network says of a batch, and what the objective needs besides."""
        needs = self.plan.objective.needs
        image = _laid_out(self.front.normalise(batch.image))
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
        both = self.front.normalise(torch.cat([batch.image, view.apply(batch.image)]))
        logits, reconstruction = self.module(_laid_out(both))
        here, moved = logits.chunk(2)
        return Outputs(here, reconstruction.chunk(2)[0], view.undo(moved), teacher)

    def rate(self, number: int) -> float:
        """Learning rate of step `number` (from 0), relative to its peak."""
        config = self.plan.config
        return rate_factor(number, self.plan.steps, config.warmup, config.schedule)

    def predictor(self) -> Predictor:
        """The averaged network, with its front, ready to predict."""
        network = self.average.module
        if not isinstance(network, Network):
            raise AssertionError("the average is a copy of the network")
        return Predictor(self.front, network).eval()

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, besides the data and the step's number."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "objective": self.plan.objective.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.plan.objective.restore(state["objective"])

    def _means(self, parts: dict[str, Tensor]) -> dict[str, float]:
        values = torch.stack([part.float() for part in parts.values()])
        if world_size() > 1:
            dist.all_reduce(values)
        return dict(zip(parts, (values / world_size()).tolist(), strict=True))

    def _require_finite(
        self, values: Mapping[str, float], outputs: Outputs, batch: Batch, number: int
    ) -> None:
        wrong = [name for name, value in values.items() if not abs(value) < float("inf")]
        if not wrong:
            return
        suspects = gathered(self._suspects(outputs, batch))
        shown = ", ".join(map(str, sorted(suspects)))
        raise WssegError(
            f"step {number + 1} of {self.plan.steps}: {', '.join(wrong)} is not a finite number, "
            f"with rows {shown} of the cases file in the batch; look at these images, lower "
            "learning_rate, or set precision = fp32"
        )

    def _suspects(self, outputs: Outputs, batch: Batch) -> list[int]:
        """Rows whose logits are not finite; all rows of the batch if the logits are."""
        sound = torch.isfinite(outputs.logits).flatten(1).all(1).cpu()
        chosen = batch.index.cpu()[~sound] if not sound.all() else batch.index.cpu()
        return [self.plan.rows[index] for index in chosen.tolist()]


def build_learner(fabric: Fabric, network: Network, front: Front, plan: Plan) -> Learner:
    """Put a network with its first weights on the device, with optimiser and average."""
    if all(term.name != "reconstruction" for term in plan.objective.terms):
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
        front=front.to(fabric.device),
        plan=plan,
    )


def _moved(batch: Batch, device: torch.device) -> Batch:
    return Batch(**{f.name: getattr(batch, f.name).to(device) for f in fields(batch)})


def _laid_out(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last)
