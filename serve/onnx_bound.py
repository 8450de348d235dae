"""ONNX Runtime over buffers that stay on the device: CUDA graphs for shapes that repeat."""

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsseg.serve.contract import INPUT, OUTPUTS
from wsseg.serve.engine import EngineError, Prediction
from wsseg.serve.onnx_engine import OnnxEngine, first_line

MOST_SHAPES = 4
"""Buffers and graphs are kept for; more shapes than that are run without."""
GRAPH = "gpu_graph_id"
NO_GRAPH = "-1"

Shape = tuple[int, ...]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Bound:
    """Buffers of one shape on the device, and what runs the session over them."""

    pixels: Any
    outputs: tuple[Any, ...]
    binding: Any
    run_options: Any


@dataclass
class BoundEngine:
    """An engine (see `engine.Engine`) that keeps buffers for shapes (n, c, H, W) that repeat.

    graphs: whether the session was opened with CUDA graphs; each kept shape is then captured once
    and replayed. device: where the buffers lie, as ONNX Runtime names it.
    """

    plain: OnnxEngine
    classes: int
    graphs: bool = False
    device: str = "cuda"
    _seen: set[Shape] = field(default_factory=set, init=False)
    _kept: dict[Shape, _Bound] = field(default_factory=dict, init=False)
    _refused: set[Shape] = field(default_factory=set, init=False)

    @property
    def name(self) -> str:
        """Runtime and device."""
        return self.plain.name

    @property
    def precision(self) -> str:
        """Of the network's numbers."""
        return self.plain.precision

    @property
    def file(self) -> str:
        """In the model folder."""
        return self.plain.file

    @property
    def gives_probability(self) -> bool:
        """Whether the file was exported with the probability as an output."""
        return self.plain.gives_probability

    def keeps(self, shape: Shape) -> bool:
        """Whether batches of this shape run over buffers of their own."""
        return shape in self._kept

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction:
        """Masks and areas of slices (n, c, H, W); EngineError where the runtime gives up."""
        bound = self._bound(pixels.shape)
        if bound is None:
            return self.plain(pixels)
        try:
            bound.pixels.update_inplace(np.ascontiguousarray(pixels))
            self.plain.session.run_with_iobinding(bound.binding, bound.run_options)
            # Copied, for on a CPU it is the buffer itself, which the next run writes into.
            return Prediction(*(np.array(output.numpy()) for output in bound.outputs))
        except Exception as error:  # the runtime's errors share no class below Exception
            raise EngineError(first_line(error)) from error

    def with_probability(
        self, pixels: NDArray[np.float32], /
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """The same, and the probability (n, k, H, W), without buffers of its own."""
        return self.plain.with_probability(pixels)

    def _bound(self, shape: Shape) -> _Bound | None:
        """Buffers of a shape that was met before, as long as there is room for its own."""
        if shape in self._kept:
            return self._kept[shape]
        if shape not in self._seen or len(self._kept) == MOST_SHAPES:
            self._seen.add(shape)
            return None
        if shape in self._refused:
            return None
        try:
            self._kept[shape] = self._bind(shape)
        except Exception as error:  # the runtime's errors share no class below Exception
            # Mostly memory of a GPU that others use, too: without buffers the batch may still fit.
            self._refused.add(shape)
            logger.info("no buffers are kept for batches %s: %s", shape, first_line(error))
            return None
        return self._kept[shape]

    def _bind(self, shape: Shape) -> _Bound:
        import onnxruntime

        def buffer(size: Shape, kind: Any) -> Any:
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(size, kind, self.device, 0)

        count, _, rows, columns = shape
        sizes = {"mask": (count, self.classes, rows, columns)}
        pixels = buffer(shape, np.float32)
        outputs = {
            name: buffer(sizes.get(name, (count, self.classes)), np.dtype(kind).type)
            for name, kind in OUTPUTS.items()
        }
        binding = self.plain.session.io_binding()
        binding.bind_ortvalue_input(INPUT, pixels)
        for name, output in outputs.items():
            binding.bind_ortvalue_output(name, output)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry(GRAPH, str(len(self._kept) + 1) if self.graphs else NO_GRAPH)
        return _Bound(pixels, tuple(outputs.values()), binding, options)
