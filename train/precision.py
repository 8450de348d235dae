"""Which number format the network is trained in."""

from typing import Literal

import torch

from wsseg.imaging.errors import WssegError


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware itself multiplies bfloat16; where it is emulated, it is slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fabric_precision(
    wanted: Literal["auto", "fp32", "bf16"], device: torch.device
) -> Literal["32-true", "bf16-mixed"]:
    """Fabric's name of the precision: `auto` is bfloat16 where the hardware has it.

    bfloat16 on a CUDA device without it raises WssegError; on a CPU it merely is slow.
    """
    if wanted == "fp32" or (wanted == "auto" and not has_bf16(device)):
        return "32-true"
    if device.type == "cuda" and not has_bf16(device):
        name = torch.cuda.get_device_name(device)
        raise WssegError(f"{name} has no bfloat16: set precision = fp32 or auto")
    return "bf16-mixed"
