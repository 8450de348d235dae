"""The part of Lightning that training uses: devices, precision and processes."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _left_out(module: str) -> Iterator[None]:
    """Let imports in the block find that a module is not installed, unless it is imported already.

    Fabric imports torchmetrics for its version alone, and that takes as long as PyTorch does.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


with _left_out("torchmetrics"):
    from lightning_fabric import Fabric as Fabric
    from lightning_fabric.plugins.environments.lightning import (
        LightningEnvironment as LightningEnvironment,
    )
    from lightning_fabric.plugins.environments.torchelastic import (
        TorchElasticEnvironment as TorchElasticEnvironment,
    )
    from lightning_fabric.strategies.ddp import DDPStrategy as DDPStrategy

# Lightning prints its messages of level INFO itself where logging is not configured.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
