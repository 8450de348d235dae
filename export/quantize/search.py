"""As many layers in integers as the gate allows: the most sensitive ones go back to float."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from wsseg.export.parity import EngineRejectedError
from wsseg.export.quantize.network_part import Layer
from wsseg.serve.manifest import Parity

# Of the network's multiplications: with more of them in float, int8 saves too little to be worth
# an engine that is less exact.
FLOAT_AT_MOST = 0.5
# Too few and enough layers in float are close if they differ by this part of them.
CLOSE = 8
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

    Then with fewer again, half-way between too few and enough, until the two are close. attempt:
    makes the engine with these layers in float in the place of the last one, and raises
    EngineRejectedError where it disagrees with PyTorch. rank: all layers, most sensitive first;
    called if it is needed. Raises EngineRejectedError, naming the layers that hurt most, where more
    than FLOAT_AT_MOST of the work would have to stay in float.
    """
    last = _tried(attempt, ())
    if isinstance(last, Found):
        return last
    ranked, too_few = rank(), 0
    for count in _doubled(_most_in_float(ranked)):
        last = _tried(attempt, tuple(ranked[:count]))
        if isinstance(last, Found):
            return _fewest(attempt, last, too_few)
        too_few = count
    raise EngineRejectedError(
        f"{last}, with {too_few} of {len(ranked)} layers in float; those that suffer most "
        f"from 8 bits: {_names(ranked[:NAMED])}"
    )


def _doubled(most: int) -> list[int]:
    """1, 2, 4 ... and `most`."""
    return [2**power for power in range(most.bit_length()) if 2**power < most] + [most] * (most > 0)


def _fewest(attempt: Callable[[Sequence[Layer]], Parity], found: Found, too_few: int) -> Found:
    """The engine with fewer of the found one's layers in float, but more than too few."""
    last: Found | EngineRejectedError = found
    while (gap := len(found.in_float) - too_few) > max(1, len(found.in_float) // CLOSE):
        last = _tried(attempt, found.in_float[: too_few + gap // 2])
        if isinstance(last, Found):
            found = last
        else:
            too_few += gap // 2
    # The one that failed last has taken the place of the one that is wanted.
    return found if last is found else Found(attempt(found.in_float), found.in_float)


def _tried(
    attempt: Callable[[Sequence[Layer]], Parity], kept: tuple[Layer, ...]
) -> Found | EngineRejectedError:
    """The engine with these layers in float, or why it is none; the log has both."""
    layers = f"{len(kept)} layers in float ({_names(kept)})" if kept else "all layers in 8 bits"
    try:
        found = Found(attempt(kept), kept)
    except EngineRejectedError as error:
        logger.info("%s: %s", layers, error)
        return error
    logger.info("%s: the engine passes", layers)
    return found


def _most_in_float(ranked: Sequence[Layer]) -> int:
    """How many of the first layers have no more than FLOAT_AT_MOST of all multiplications."""
    done = list(accumulate(layer.products for layer in ranked))
    return sum(products <= FLOAT_AT_MOST * done[-1] for products in done)


def _names(layers: Sequence[Layer]) -> str:
    return ", ".join(layer.name for layer in layers)
