"""How far an engine may be from PyTorch before it is kept back."""

from dataclasses import dataclass

from wsseg.serve.manifest import PrecisionName


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from PyTorch.

    On any slice: probability is the largest difference of any pixel's probability, agreement the
    smallest fraction of equal mask pixels, ratio the largest difference of an area ratio. On
    average over the slices that show it: ratio_mean is the largest difference of an area ratio,
    mask_iou the smallest IoU of a class. border: a pixel whose PyTorch probability is that close to
    its threshold is left out of all but probability, for its class hangs on rounding alone.
    """

    probability: float
    agreement: float
    ratio: float
    border: float
    ratio_mean: float = 1.0
    mask_iou: float = 0.0


# What no finite answer exceeds: such engines are held to their averages.
_ON_AVERAGE = Tolerance(
    probability=1.0, agreement=0.0, ratio=float("inf"), border=0.0, ratio_mean=0.002, mask_iou=0.98
)

TOLERANCES: dict[PrecisionName, Tolerance] = {
    # Another order of float32 sums moves a probability by 1e-7 to 1e-5 in networks this deep
    # (measured): a difference of 1e-3 is a wrong graph. The border, ten times that noise, keeps a
    # hardly trained network, flat around its threshold, from failing on its last bits.
    "fp32": Tolerance(probability=1e-3, agreement=0.9999, ratio=1e-4, border=1e-4),
    # Half precision has 11 bits; 1e-5 to 1e-2 was measured. The whole difference counts, without
    # a border: where a ratio is that sensitive, float32 is the engine to use.
    "fp16": Tolerance(probability=2e-2, agreement=0.995, ratio=5e-3, border=0.0),
    # Eight bits, of the number or of its mantissa, move outlines by single pixels on every slice:
    # what counts is that areas do not move with them. 0.002 is a fifth of a percent of the image.
    "bf16": _ON_AVERAGE,
    "int8": _ON_AVERAGE,
}
