"""Whether a slice has the same mask alone, in a batch, and after slices of other sizes."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wsseg.export.difference import Standard
from wsseg.serve.engine import Prediction

# As many as serving sends at once, and an odd number, which blocked kernels leave a rest of.
BATCHES = (8, 3)
# Float sums around the integer network depend on the batch in their last bits, and a pixel on its
# very threshold hangs on those: one in 10,000 may.
STEADY = 0.9999


def unsteadiness(
    run: Callable[[NDArray[np.float32]], Prediction], standard: Standard
) -> str | None:
    """In words, which slice's mask depends on the slices around it; None where none does.

    Every slice of the standard is run alone, then in turned and mirrored company of its size, with
    the sizes in another order, at the batch's end.
    """
    alone = [r.pixels for r in standard.references if len(r.pixels) == 1]
    masks = [run(pixels).masks[0] for pixels in alone]
    for place in reversed(range(len(alone))):
        for count in BATCHES:
            found = run(_company(alone[place], count)).masks[-1]
            equal = float((found == masks[place]).mean())
            if equal < STEADY:
                return (
                    f"the mask of a slice of {found.shape[1:]} agrees with itself in {equal:.5f} "
                    f"between a batch of 1 and of {count} (at least {STEADY})"
                )
    return None


def _company(pixels: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """A batch that ends in the slice (1, c, H, W), after variants of it that differ."""
    others = [np.roll(pixels[..., ::-1], 7 * number, axis=-1) for number in range(1, count)]
    return np.concatenate([*others, pixels])
