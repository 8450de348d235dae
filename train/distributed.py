"""The same training step for any number of processes: batch norm and dropout of the global batch.

The steps are equal up to rounding errors, which grow from step to step: in float64 whole runs
agree, in float32 only their first steps.

The global batch is split contiguously: process r holds the samples r * n to (r + 1) * n. Every
process must hold the same number of samples, and its loss must be the mean over its samples, so
that averaging the gradients over the processes gives the gradient of the global mean.
"""

from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

T = TypeVar("T")


def world_size() -> int:
    """Number of training processes, 1 outside of distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process, 0 outside of distributed training."""
    return dist.get_rank() if world_size() > 1 else 0


def gathered(local: list[T]) -> list[T]:
    """The lists of all processes, concatenated in the order of their ranks."""
    if world_size() == 1:
        return local
    parts: list[list[T]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, local)
    return [item for part in parts for item in part]


class _ProcessMean(torch.autograd.Function):
    """Mean of a tensor over all processes; its gradient is again the mean of the gradients.

    torch 2.15 deprecates its own differentiable reduction, `torch.distributed.nn.all_reduce`, in
    favour of a private module.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        del ctx
        total = local.contiguous().clone()
        dist.all_reduce(total)
        return total / world_size()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        del ctx
        return _ProcessMean.forward(None, gradient)


class GlobalBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d with the training statistics of the global batch, for CPUs.

    Parameters, buffers and names are those of BatchNorm2d, and so are checkpoints. torch 2.15's
    SyncBatchNorm does the same on GPUs, but refuses CPU tensors.
    """

    def forward(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Normalise per channel and update the running statistics as BatchNorm2d does."""
        if not self.training or world_size() == 1:
            return super().forward(features)
        # Statistics in the weights' precision, also if autocast made the features bfloat16.
        wide = features.to(self.weight.dtype)
        mean = _mean_over_processes(wide.mean((0, 2, 3), keepdim=True))
        centred = wide - mean
        variance = _mean_over_processes(centred.square().mean((0, 2, 3), keepdim=True))
        self._track(mean.detach().flatten(), variance.detach().flatten(), wide)
        scale = self.weight.view(1, -1, 1, 1) * torch.rsqrt(variance + self.eps)
        return (centred * scale + self.bias.view(1, -1, 1, 1)).to(features.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, features: Tensor) -> None:
        count = world_size() * features.numel() // features.shape[1]
        unbiased = variance * (count / max(count - 1, 1))
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            raise AssertionError("every batch norm of our networks keeps running statistics")
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def _mean_over_processes(local: Tensor) -> Tensor:
    mean: Tensor = _ProcessMean.apply(local)
    return mean


def convert(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with batch norms over the global batch; unchanged for one process.

    Call it after the process group exists and before the optimiser is created. On CPUs it uses
    GlobalBatchNorm, elsewhere torch's SyncBatchNorm.
    """
    if world_size() == 1:
        return network
    if device.type != "cpu":
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synchronised
    for name, module in list(network.named_modules()):
        if type(module) is nn.BatchNorm2d:
            twin = GlobalBatchNorm(module.num_features, module.eps, module.momentum)
            twin.to(module.weight).load_state_dict(module.state_dict())
            # DDP waits for the gradient of every parameter that requires one.
            twin.requires_grad_(module.weight.requires_grad)
            network.set_submodule(name, twin.train(module.training))
    return network


class SeededDropout(nn.Module):
    """Dropout whose masks depend only on seed, step, layer and index in the global batch.

    So one and two processes, and a resumed run, drop the same values. The masks are those of
    step 0 until `set_step` chooses another step.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.key: tuple[int, int, int] = (0, 0, 0)

    def forward(self, features: Float[Tensor, "n *rest"]) -> Float[Tensor, "n *rest"]:
        """Set a fraction of `probability` of the features to 0 and scale the others up."""
        if not self.training or self.probability == 0:
            return features
        keep = 1 - self.probability
        return features * (self._draws(features) < keep) / keep

    def _draws(self, features: Tensor) -> Tensor:
        first = rank() * len(features)
        draws = torch.empty(features.shape, device=features.device)
        for index, sample in enumerate(draws, start=first):
            seed = np.random.SeedSequence((*self.key, index)).generate_state(1, np.uint64)[0]
            sample.uniform_(generator=torch.Generator(features.device).manual_seed(int(seed)))
        return draws


def set_step(network: nn.Module, step: int, *, seed: int = 0) -> None:
    """Choose the dropout masks of a training step for every SeededDropout of the network."""
    layers = (module for module in network.modules() if isinstance(module, SeededDropout))
    for number, layer in enumerate(layers):
        layer.key = (seed, step, number)
