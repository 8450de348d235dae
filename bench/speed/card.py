"""What a network asks of a processor at least: arithmetic, and features through memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cost:
    """Of one slice. flops: a multiply and an add are two. nbytes: each convolution's input and
    output once, and its weights; an engine that fuses layers may need less."""

    flops: float
    nbytes: float


def network_cost(run: Path, precision: str) -> Cost:
    """The cost of a run's network at its own input size."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from wsseg.train.run_folder import load_run

    trained = load_run(run)
    values = 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal values
        values += inputs[0].numel() + output.numel() + module.weight.numel()

    for module in trained.network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    size = trained.record.size
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        trained.network.coarse_logits(torch.zeros(1, 3, size, size))
    return Cost(counter.get_total_flops(), values * (2 if precision == "fp16" else 4))
