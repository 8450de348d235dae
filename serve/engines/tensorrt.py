"""TensorRT and TensorRT-RTX engines on the first NVIDIA GPU: built, cached and run."""

import hashlib
import json
import logging
import os
import stat
import sys
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import SomeFailedError
from wsseg.imaging.files import atomic
from wsseg.serve.engines.base import EngineError, Prediction, UnusableError, engine_error
from wsseg.serve.engines.hardware import no_driver, preload_libraries, this_architecture
from wsseg.serve.engines.onnx_file import onnx_bytes
from wsseg.serve.manifest import (
    AREA_VARIANCE,
    INPUT,
    KINDS,
    OUTPUTS,
    EngineFile,
    Manifest,
    Profile,
    RuntimeName,
    engine_bytes,
)

RTX = "tensorrt_rtx"
EXTRAS = {"tensorrt": "trt", "tensorrt_rtx": "trt-rtx"}
DEVICE = "cuda"
DEFAULT_STREAM = 0

logger = logging.getLogger(__name__)


@cache
def listener_of(trt: Any) -> Any:
    """Sends TensorRT's messages to our log; one per library, which keeps the first one it gets."""
    severity = trt.ILogger.Severity
    errors = (severity.INTERNAL_ERROR, severity.ERROR)

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = "it gave no reason"

        def log(self, level: Any, message: str) -> None:
            # Its warnings are about how a network is written: nothing a user of wsseg can change.
            logger.log(logging.ERROR if level in errors else logging.DEBUG, "%s", message)
            if level in errors:
                self.last_error = message

    return Listener()


class EngineBuildError(SomeFailedError):
    """TensorRT is installed and could not build or load an engine; the message quotes it."""


def library(trt: Any) -> str:
    """Name and version of a TensorRT module: an engine runs only in the version that built it."""
    return f"{trt.__name__} {trt.__version__}"


def known_architectures(trt: Any) -> dict[str, Any]:
    """Architectures that TensorRT-RTX can build for, by the name nvcc gives them."""
    members = trt.ComputeCapability.__members__
    return {f"sm_{n.removeprefix('SM')}": m for n, m in members.items() if n.startswith("SM")}


def build_engine(trt: Any, model: bytes, architecture: str, profile: Profile) -> bytes:
    """Build an engine for one architecture from an ONNX model, with the types of the model.

    `tensorrt` builds only for the GPU of this machine, `tensorrt_rtx` for any that it knows. Raises
    EngineBuildError with TensorRT's own words.
    """
    listener = listener_of(trt)
    builder = trt.Builder(listener)
    network, _parser = read_network(trt, builder, model)
    config = builder.create_builder_config()
    # TF32 rounds to half's 11 bits: an engine that calls itself fp32 must not.
    config.clear_flag(trt.BuilderFlag.TF32)
    if trt.__name__ == RTX:
        known = known_architectures(trt)
        if architecture not in known:
            raise EngineBuildError(f"{library(trt)} does not build for {architecture}")
        config.num_compute_capabilities = 1
        config.set_compute_capability(known[architecture], 0)
    channels = network.get_input(0).shape[1]
    bounds = (profile.minimum, profile.optimum, profile.maximum)
    shapes = builder.create_optimization_profile()
    shapes.set_shape(INPUT, *((n, channels, rows, columns) for n, rows, columns in bounds))
    config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineBuildError(f"{library(trt)}, {architecture}: {listener.last_error}")
    return bytes(plan)


def read_network(trt: Any, builder: Any, model: bytes) -> tuple[Any, Any]:
    """The network of an ONNX model and its parser, which holds the network's weights.

    The network has no probability, because TensorRT computes every output in every run.
    """
    listener = listener_of(trt)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, listener)
    if not parser.parse(model):
        problems = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise EngineBuildError(f"{library(trt)} does not take the ONNX file: {problems}")
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    for output in outputs:
        if output.name not in (*OUTPUTS, AREA_VARIANCE):
            network.unmark_output(output)
    return network, parser


def cached_engine(
    trt: Any, model: bytes, architecture: str, profile: Profile, cache: Path
) -> tuple[bytes, bool]:
    """The engine of an ONNX model from the cache, and whether it had to be built for it.

    Its name follows from everything that an engine depends on: the model, which has its precision,
    the library's version, the architecture and the profile.
    """
    parts = [hashlib.sha256(model).hexdigest(), library(trt), architecture, profile.model_dump()]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    for file in cache.glob(f"{key}-*.engine"):
        plan = file.read_bytes()
        if file.stem == f"{key}-{_digest(plan)}" and _is_own(file):  # complete, and nobody else's
            return plan, False
    plan = build_engine(trt, model, architecture, profile)
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic(cache / f"{key}-{_digest(plan)}.engine") as partial:
            partial.write_bytes(plan)
            partial.chmod(0o600)
    except OSError as error:
        logger.warning("the engine cannot be kept in %s (%s): set WSSEG_CACHE", cache, error)
    return plan, True


def _is_own(file: Path) -> bool:
    """Whether only this user or the system can have written a file: an engine is code."""
    if sys.platform == "win32":  # where a user's folders are closed to others
        return True
    others = stat.S_IWGRP | stat.S_IWOTH
    stats = [file.stat(), file.parent.stat()]
    return all(one.st_uid in (os.getuid(), 0) and not one.st_mode & others for one in stats)


def _digest(plan: bytes) -> str:
    return hashlib.sha256(plan).hexdigest()[:32]


def engine_cache() -> Path:
    """The folder of rebuilt engines, in WSSEG_CACHE or else in the user's own cache folder."""
    chosen, home = os.environ.get("WSSEG_CACHE"), os.environ.get("XDG_CACHE_HOME")
    folder = Path(chosen) if chosen else (Path(home) if home else Path.home() / ".cache") / "wsseg"
    return folder / "engines"


def _shapes(builder: Any, channels: int, profile: Profile) -> Any:
    shapes = builder.create_optimization_profile()
    bounds = [
        (n, channels, h, w) for n, h, w in (profile.minimum, profile.optimum, profile.maximum)
    ]
    shapes.set_shape(INPUT, *bounds)
    return shapes


def no_tensorrt(runtime: RuntimeName) -> str | None:
    """The reason why a TensorRT cannot run here, found without an engine; None if it may run."""
    if find_spec(runtime) is None:
        return f"not installed: pip install 'wsseg[{EXTRAS[runtime]}]'"
    return no_driver()


@dataclass
class TensorRtEngine:
    """An engine, see `base.Engine`, over one TensorRT execution context.

    Buffers on the GPU are ONNX Runtime's, which brings all that copying needs. runtime and listener
    are held because TensorRT's engine does not keep them alive.
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
        count, _, rows, columns = pixels.shape
        low, high = self.profile.minimum, self.profile.maximum
        shape = (count, rows, columns)
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            raise EngineError(
                f"{self.file} takes (batch, rows, columns) from {low} to {high}, not {shape}: "
                "export with a wider --image-size or use another --engine"
            )
        try:
            import onnxruntime

            def buffer(name: str) -> Any:
                size = (count, self.classes, *(shape[1:] if name == "mask" else ()))
                kind_type = np.dtype(KINDS[name]).type
                return onnxruntime.OrtValue.ortvalue_from_shape_and_type(size, kind_type, DEVICE, 0)

            given = np.ascontiguousarray(pixels)
            buffers = {INPUT: onnxruntime.OrtValue.ortvalue_from_numpy(given, DEVICE, 0)}
            buffers |= {name: buffer(name) for name in self._outputs}
            self.context.set_input_shape(INPUT, pixels.shape)
            for name, one in buffers.items():
                self.context.set_tensor_address(name, one.data_ptr())
            if not self.context.execute_async_v3(DEFAULT_STREAM):
                failed = RuntimeError(f"{self.name} failed: {self.listener.last_error}")
                raise engine_error(failed)
            # Copying waits for the default stream, on which the engine ran.
            return Prediction(*(buffers[name].numpy() for name in self._outputs))
        except EngineError:
            raise
        except Exception as error:  # the runtime's errors share no class below Exception
            raise engine_error(error) from error

    @property
    def _outputs(self) -> tuple[str, ...]:
        """The outputs of every run, in the order of a Prediction."""
        engine = self.context.engine
        given = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        return (*OUTPUTS, AREA_VARIANCE) if AREA_VARIANCE in given else tuple(OUTPUTS)

    def with_probability(
        self, pixels: NDArray[np.float32], /
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """Not available: these engines are built without that output."""
        raise EngineError(f"{self.name} gives no probability")


def open_tensorrt(
    folder: Path, manifest: Manifest, entry: EngineFile, _threads: int
) -> TensorRtEngine:
    """Open a TensorRT file and try it; UnusableError if it does not fit this machine.

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
    """Build an engine in place of one that does not fit, from the ONNX file of its precision.

    The user's cache keeps it. It was not compared with PyTorch on this GPU, so a warning is logged,
    its name states that it is another engine, and its file is the ONNX file. Raises UnusableError
    if there is no such file or the library cannot build.
    """
    module, gpu = _module(entry.runtime), this_architecture()
    wanted = ("onnxruntime", entry.precision)
    source = next((e for e in manifest.engines if (e.runtime, e.precision) == wanted), None)
    if source is None or entry.profile is None or gpu is None:
        raise UnusableError(f"{entry.file} cannot be built again: export again here")
    model = onnx_bytes(folder, source)
    try:
        plan, built = cached_engine(module, model, gpu, entry.profile, engine_cache())
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


def _module(runtime: RuntimeName) -> Any:
    try:
        return import_module(runtime)
    except (ImportError, OSError) as error:  # installed, and some library of it is not
        raise UnusableError(f"{runtime} does not load: {error}") from error


def _loaded(module: Any, plan: bytes, manifest: Manifest, entry: EngineFile) -> TensorRtEngine:
    """An engine that has computed once, from its bytes."""
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
