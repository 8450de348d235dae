"""Which layers of a network suffer most from 8 bits."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from wsseg.export.quantize.images import evenly
from wsseg.export.quantize.network_part import Layer, NetworkPart
from wsseg.export.quantize.qdq import with_integers
from wsseg.export.quantize.ranges import Inputs, Ranges

# Enough to tell layers apart whose errors differ by a tenth; each layer is run on all of them.
LOOKED_AT = 8


def most_sensitive_first(part: NetworkPart, ranges: Ranges, inputs: Inputs) -> list[Layer]:
    """The part's layers, by how far each alone, in integers, moves the coarse logits.

    Root mean square over a few of the normalised inputs (1, 3, s, s).
    """
    shown = [inputs[place] for place in evenly(len(inputs), LOOKED_AT)]
    exact = _logits(part, part.model, shown)

    def harm(layer: Layer) -> float:
        moved = _logits(part, with_integers(part.model, ranges, layer.nodes), shown) - exact
        return float(np.square(moved, dtype=np.float64).mean())

    return sorted(part.layers, key=harm, reverse=True)


def _logits(part: NetworkPart, model: onnx.ModelProto, inputs: Inputs) -> NDArray[np.float32]:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.concatenate([session.run([part.exit], {part.entrance: x})[0] for x in inputs])
