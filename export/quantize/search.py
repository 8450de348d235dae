"""As many layers in integers as the gate allows: the most sensitive ones go back to float."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wsseg.export.parity import EngineRejectedError
from wsseg.export.quantize.network_part import Layer
from wsseg.serve.manifest import Parity

# Of the network's multiplications: with more of them in float, int8 saves too little to be worth
# an engine that is less exact.
FLOAT_AT_MOST = 0.5
# How many layers an error names.
NAMED = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """An engine that passed: its figures, and its layers in float, most sensitive first."""

    parity: Parity
    in_float: tuple[Layer, ...]


def search(attempt: Callable[[Sequence[Layer]], Parity], rank: Callable[[], list[Layer]]) -> Found:
    """Attempt the engine with no layer in float, then with 1, 2, 4, 8 ... until one passes.

    attempt: makes the engine with these layers in float, and raises EngineRejectedError where it
    disagrees with PyTorch. rank: all layers, most sensitive first; called if it is needed. Raises
    EngineRejectedError, naming the layers that hurt most, where more than FLOAT_AT_MOST of the
    work would have to stay in float.
    """
    try:
        return Found(attempt(()), ())
    except EngineRejectedError as error:
        logger.info("all layers in 8 bits: %s", error)
        last = error
    ranked = rank()
    total = sum(layer.products for layer in ranked)
    count = 1
    while sum(layer.products for layer in ranked[:count]) <= FLOAT_AT_MOST * total:
        kept = tuple(ranked[:count])
        try:
            found = Found(attempt(kept), kept)
        except EngineRejectedError as error:
            logger.info("with %d layers in float (%s): %s", count, _names(kept), error)
            last = error
        else:
            logger.info("with %d layers in float the engine passes: %s", count, _names(kept))
            return found
        count *= 2
    raise EngineRejectedError(
        f"{last}, with {count // 2} of {len(ranked)} layers in float; those that suffer most "
        f"from 8 bits: {_names(ranked[:NAMED])}"
    )


def _names(layers: Sequence[Layer]) -> str:
    return ", ".join(layer.name for layer in layers)
