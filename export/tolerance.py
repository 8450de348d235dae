"""How far an engine may be from PyTorch before it is kept back."""

from dataclasses import dataclass

from wsseg.serve.manifest import PrecisionName


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from PyTorch on any slice.

    probability: largest difference of any pixel's probability. agreement: smallest fraction of
    equal mask pixels. ratio: largest difference of an area ratio. border: a pixel whose PyTorch
    probability is that close to its threshold is left out of agreement and ratio, for its class
    hangs on rounding alone.
    """

    probability: float
    agreement: float
    ratio: float
    border: float


TOLERANCES: dict[PrecisionName, Tolerance] = {
    # Another order of float32 sums moves a probability by 1e-7 to 1e-5 in networks this deep
    # (measured): a difference of 1e-3 is a wrong graph. The border, ten times that noise, keeps a
    # hardly trained network, flat around its threshold, from failing on its last bits.
    "fp32": Tolerance(probability=1e-3, agreement=0.9999, ratio=1e-4, border=1e-4),
    # Half precision has 11 bits; 1e-5 to 1e-2 was measured. The whole difference counts, without
    # a border: where a ratio is that sensitive, float32 is the engine to use.
    "fp16": Tolerance(probability=2e-2, agreement=0.995, ratio=5e-3, border=0.0),
}
