"""Run TensorRT and TensorRT-RTX engines of a model folder on the first NVIDIA GPU."""

import logging
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsseg.serve.contract import INPUT, OUTPUTS
from wsseg.serve.cuda_driver import no_driver, this_architecture
from wsseg.serve.cuda_libraries import preload_libraries
from wsseg.serve.engine import EngineError, Prediction, UnusableError
from wsseg.serve.manifest import EngineFile, Manifest, Profile, RuntimeName
from wsseg.serve.model_folder import engine_bytes
from wsseg.serve.tensorrt_build import EngineBuildError, engine_cache, kept_engine, library
from wsseg.serve.tensorrt_log import listener_of

EXTRAS = {"tensorrt": "trt", "tensorrt_rtx": "trt-rtx"}
DEVICE = "cuda"
DEFAULT_STREAM = 0

logger = logging.getLogger(__name__)


def no_tensorrt(runtime: RuntimeName) -> str | None:
    """Why a TensorRT cannot run here, found without an engine; None where it may."""
    if find_spec(runtime) is None:
        return f"not installed: pip install 'wsseg[{EXTRAS[runtime]}]'"
    return no_driver()


@dataclass
class TensorRtEngine:
    """An engine (see `engine.Engine`) over one TensorRT execution context.

    Buffers on the GPU are ONNX Runtime's, which brings all that copying needs. runtime and listener
    are kept because TensorRT's engine does not keep them alive.
    """

    context: Any
    runtime: Any
    listener: Any
    classes: int
    profile: Profile
    name: str
    precision: str
    file: str
    gives_probability: bool = False

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction:
        """Masks and areas of slices (n, c, H, W); EngineError outside the profile or on failure."""
        self._check_fits(pixels)
        count, _, rows, columns = pixels.shape
        sizes = {"mask": (count, self.classes, rows, columns)}
        try:
            buffers = {INPUT: _on_gpu(np.ascontiguousarray(pixels))}
            for name, kind in OUTPUTS.items():
                buffers[name] = _room(sizes.get(name, (count, self.classes)), np.dtype(kind))
            self._execute(pixels.shape, buffers)
            # Copying waits for the default stream, on which the engine ran.
            return Prediction(*(buffers[name].numpy() for name in OUTPUTS))
        except EngineError:
            raise
        except Exception as error:  # the runtime's errors share no class below Exception
            raise EngineError(str(error) or type(error).__name__) from error

    def with_probability(
        self, pixels: NDArray[np.float32], /
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """Not to be had: these engines are built without that output."""
        raise EngineError(f"{self.name} gives no probability")

    def _execute(self, shape: tuple[int, ...], buffers: dict[str, Any]) -> None:
        self.context.set_input_shape(INPUT, shape)
        for name, buffer in buffers.items():
            self.context.set_tensor_address(name, buffer.data_ptr())
        if not self.context.execute_async_v3(DEFAULT_STREAM):
            raise EngineError(f"{self.name} failed: {self.listener.last_error}")

    def _check_fits(self, pixels: NDArray[np.float32]) -> None:
        count, _, rows, columns = pixels.shape
        bounds = zip(
            self.profile.minimum, (count, rows, columns), self.profile.maximum, strict=True
        )
        if not all(low <= value <= high for low, value, high in bounds):
            raise EngineError(
                f"{self.file} takes (batch, rows, columns) from {self.profile.minimum} to "
                f"{self.profile.maximum}, not {(count, rows, columns)}: export with a wider "
                "--image-size or use another --engine"
            )


def open_tensorrt(
    folder: Path, manifest: Manifest, entry: EngineFile, _threads: int
) -> TensorRtEngine:
    """The engine of a TensorRT file, after a trial run; UnusableError where it does not fit here.

    An engine runs only in the library version that built it, and on the GPU architecture that it
    was built for.
    """
    module = _module(entry.runtime)
    if entry.builder != library(module):
        raise UnusableError(
            f"{entry.file} was built by {entry.builder} and this is {library(module)}: export "
            "again here, with wsseg-export --trt"
        )
    return _loaded(module, engine_bytes(folder, entry), manifest, entry)


def rebuild_tensorrt(
    folder: Path, manifest: Manifest, entry: EngineFile, _threads: int
) -> TensorRtEngine:
    """An engine like one that does not fit here, built from the ONNX file of its precision.

    It is kept in the user's cache. Nothing has compared it with PyTorch on this GPU, which is said;
    its name tells that it is another engine, and its file is the one that it was built from.
    Raises UnusableError where there is no such file or the library cannot build.
    """
    module, gpu, source = _module(entry.runtime), this_architecture(), _source(manifest, entry)
    if source is None or entry.profile is None or gpu is None:
        raise UnusableError(f"{entry.file} cannot be built again: export again here")
    model = engine_bytes(folder, source)
    try:
        plan, built = kept_engine(module, model, gpu, entry.profile, engine_cache())
    except EngineBuildError as error:
        raise UnusableError(str(error)) from error
    logger.warning(
        "%s (%s, %s) does not fit here: an engine for %s was %s from %s with %s; it was not "
        "compared with PyTorch on this GPU, wsseg-export --trt does that",
        *(entry.file, entry.builder, entry.gpu, gpu),
        "built" if built else "taken from the cache, built",
        *(source.file, library(module)),
        extra={"event": "engine_rebuilt", "file": entry.file},
    )
    engine = _loaded(module, plan, manifest, entry.model_copy(update={"file": source.file}))
    return replace(engine, name=f"{engine.name}-rebuilt")


def _source(manifest: Manifest, entry: EngineFile) -> EngineFile | None:
    wanted = ("onnxruntime", entry.precision)
    return next((e for e in manifest.engines if (e.runtime, e.precision) == wanted), None)


def _module(runtime: RuntimeName) -> Any:
    try:
        return import_module(runtime)
    except (ImportError, OSError) as error:  # installed, and some library of it is not
        raise UnusableError(f"{runtime} does not load: {error}") from error


def _loaded(module: Any, plan: bytes, manifest: Manifest, entry: EngineFile) -> TensorRtEngine:
    """A plan as an engine that has computed once."""
    if entry.profile is None:
        raise UnusableError(f"{entry.file} has no profile in the manifest: export again")
    listener = listener_of(module)
    runtime = module.Runtime(listener)
    deserialised = runtime.deserialize_cuda_engine(plan)
    if deserialised is None:
        raise UnusableError(
            f"{entry.file}, built for {entry.gpu}, does not load on this GPU "
            f"({listener.last_error}): export again here, with wsseg-export --trt"
        )
    engine = TensorRtEngine(
        deserialised.create_execution_context(),
        runtime,
        listener,
        len(manifest.classes),
        entry.profile,
        f"{entry.runtime.replace('_', '-')}-cuda",
        entry.precision,
        entry.file,
    )
    preload_libraries()
    count, rows, columns = entry.profile.minimum
    try:
        engine(np.zeros((count, manifest.channels, rows, columns), np.float32))
    except EngineError as error:
        raise UnusableError(f"{entry.file}: a trial run failed: {error}") from error
    return engine


def _on_gpu(pixels: NDArray[np.float32]) -> Any:
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(pixels, DEVICE, 0)


def _room(shape: tuple[int, ...], kind: np.dtype[Any]) -> Any:
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind.type, DEVICE, 0)
