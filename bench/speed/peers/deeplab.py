"""wsseg's ResNet-50 network from torchvision's parts, for peers that run it in their own loops.

Run inside the peers' environments: torch and torchvision only.
"""

from pathlib import Path
from typing import Any

MEAN = (0.485, 0.456, 0.406)
SD = (0.229, 0.224, 0.225)


def load(weights: Path, device: str) -> Any:
    """The network with the weights of a state dictionary, without its reconstruction head."""
    import torch
    from torchvision.models.segmentation import deeplabv3_resnet50

    network = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=1, aux_loss=False)
    own = network.state_dict()
    found = torch.load(weights, map_location="cpu", weights_only=True)
    network.load_state_dict({name: found[name] for name in own})
    return network.eval().to(device)


def normalised(grey: Any) -> Any:
    """ImageNet's units for grey 0..255 (n, 1, rows, columns), repeated to RGB."""
    import torch

    mean, sd = (torch.tensor(v, device=grey.device).view(3, 1, 1) for v in (MEAN, SD))
    return (grey.expand(-1, 3, -1, -1) / 255 - mean) / sd
