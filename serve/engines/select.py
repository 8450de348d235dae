"""The choice of the engine of a model folder: the one that is asked for, or the fastest."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from wsseg.imaging.errors import WssegError
from wsseg.serve.engines.base import Engine, EngineName, EngineOptions, UnusableError
from wsseg.serve.engines.benchmark import reference
from wsseg.serve.engines.hardware import integer_kind
from wsseg.serve.engines.onnxruntime import (
    CUDA,
    TENSORRT,
    TENSORRT_RTX,
    no_provider,
    open_onnx_cpu,
    open_onnx_gpu,
)
from wsseg.serve.engines.openvino import no_bfloat, no_openvino, open_openvino
from wsseg.serve.engines.tensorrt import no_tensorrt, open_tensorrt, rebuild_tensorrt
from wsseg.serve.engines.torch import no_torch, open_torch
from wsseg.serve.manifest import (
    EngineFile,
    Manifest,
    PrecisionName,
    RuntimeName,
    UnfitFileError,
)

WITHOUT_PROBABILITY: tuple[RuntimeName, ...] = ("tensorrt", "tensorrt_rtx")
# The order in which precisions are tried if their times were not measured.
ON_GPU: tuple[PrecisionName, ...] = ("fp16", "bf16", "fp32")
ON_CPU: tuple[PrecisionName, ...] = ("fp32", "bf16", "fp16", "int8")

Open = Callable[[Path, Manifest, EngineFile, int], Engine]
"""Opens an engine of a model folder with a number of threads."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """One way to compute a model.

    engine: the name by which it is asked for. runtime: the runtime whose entries of the manifest it
    opens. absent: gives the reason why it cannot work on this machine, found without a model, or
    None. open: raises UnusableError if it cannot work after all, WssegError for a file that cannot
    be used. on_request: it is only taken if asked for by name, because it computes files that were
    compared in another runtime, or is never the fastest. rebuild: builds an engine that fits this
    machine in place of one that does not.
    """

    engine: EngineName
    runtime: RuntimeName
    device: Literal["cpu", "cuda"]
    absent: Callable[[], str | None]
    open: Open
    on_request: bool = False
    rebuild: Open | None = None

    @property
    def label(self) -> str:
        """Name and device, for people."""
        return f"{self.engine} on {'CUDA' if self.device == 'cuda' else 'CPU'}"


def _onnx_gpu(engine: EngineName, provider: str, *, on_request: bool = False) -> Adapter:
    opened = partial(open_onnx_gpu, provider=provider)
    absent = partial(no_provider, provider)
    return Adapter(engine, "onnxruntime", "cuda", absent, opened, on_request)


def _tensorrt(engine: EngineName, runtime: RuntimeName) -> Adapter:
    absent = partial(no_tensorrt, runtime)
    return Adapter(engine, runtime, "cuda", absent, open_tensorrt, rebuild=rebuild_tensorrt)


def _torch(device: Literal["cpu", "cuda"]) -> Adapter:
    opened = partial(open_torch, device=device)
    return Adapter("torch", "torch", device, partial(no_torch, device), opened, on_request=True)


ADAPTERS: tuple[Adapter, ...] = (
    _tensorrt("tensorrt", "tensorrt"),
    _tensorrt("tensorrt-rtx", "tensorrt_rtx"),
    _onnx_gpu("onnxruntime", CUDA),
    _onnx_gpu("onnxruntime-tensorrt", TENSORRT, on_request=True),
    _onnx_gpu("onnxruntime-tensorrt-rtx", TENSORRT_RTX, on_request=True),
    _torch("cuda"),
    Adapter("openvino", "openvino", "cpu", no_openvino, open_openvino),
    Adapter("onnxruntime", "onnxruntime", "cpu", lambda: None, open_onnx_cpu),
    _torch("cpu"),
)
"""Fastest first on a GPU; on a CPU the times in the model folder decide."""


@dataclass(frozen=True)
class Candidate:
    """An entry of the manifest and the adapter that would compute it."""

    adapter: Adapter
    entry: EngineFile

    def __str__(self) -> str:
        return f"{self.adapter.label} in {self.entry.precision}"


Reasons = list[tuple[Candidate, str]]
"""Candidates that cannot compute here, each with the reason."""


def open_engine(folder: Path, manifest: Manifest, options: EngineOptions) -> Engine:
    """Open the engine that is asked for, or the fastest that agreed with PyTorch.

    "auto" takes no reduced precision without parity figures, nor one whose figures hold for integer
    instructions that this CPU lacks. A GPU comes before the CPU; engines of a CPU come in the order
    of the times that were measured at export. The log states which engine was taken, and why others
    were skipped. A file that must not be run is passed over with a warning. Raises WssegError if no
    engine fits, or if CUDA is asked for and does not work.
    """
    devices = {a.device for a in ADAPTERS if options.engine in ("auto", a.engine)}
    if options.device != "auto" and options.device not in devices:
        raise WssegError(
            f"engine {options.engine} computes on {' and '.join(sorted(devices))}, not on "
            f"{options.device}: leave out --device or choose another --engine"
        )
    if options.device != "cpu" and "cuda" in devices:
        engine, reasons = _open_first(folder, manifest, options, "cuda")
        if engine:
            return engine
        why = _summary(reasons)
        if options.device == "cuda":
            raise WssegError(
                f"--device cuda does not work here: {why}; correct this or use the CPU"
            )
        # A machine without a GPU is usual; a GPU that is not used is slow for no good reason.
        broken = any(candidate.adapter.absent() is None for candidate, _ in reasons)
        level = logging.WARNING if broken else logging.DEBUG
        logger.log(level, "CUDA is not used: %s", why, extra={"event": "cuda_not_used"})
        if reasons and not any(True for _ in _requested(manifest, options, "cpu")):
            raise WssegError(f"engine {options.engine} does not run here: {why}")
    engine, reasons = _open_first(folder, manifest, options, "cpu")
    if engine:
        return engine
    if reasons:
        raise WssegError(f"no engine of {manifest.name} runs here: {_summary(reasons)}")
    existing = ", ".join(sorted({f"{e.runtime} {e.precision}" for e in manifest.engines}))
    wanted = " ".join(part for part in (options.engine, options.precision) if part != "auto")
    raise WssegError(
        f"model {manifest.name} has no engine for {wanted or 'this machine'} (it has: {existing}): "
        "export one or choose another --engine or --precision"
    )


def open_entry(
    folder: Path, manifest: Manifest, entry: EngineFile, options: EngineOptions
) -> Engine:
    """Open exactly this engine of a model folder, whatever `options.precision` is.

    Raises WssegError if it does not run on this machine.
    """
    only = manifest.model_copy(update={"engines": (entry,)})
    engine: Any = entry.runtime.replace("_", "-")
    asked = replace(options, engine=engine, precision=entry.precision)
    return open_engine(folder, only, asked)


def fallback_entry(manifest: Manifest, used: Engine) -> EngineFile | None:
    """The entry that computes slices again which an engine could not: fp32 in ONNX Runtime.

    It runs on any machine, on the CPU. None if the model has none, or `used` is that engine.
    """
    if (used.name, used.precision) == ("onnxruntime-cpu", "fp32"):
        return None
    return reference(manifest.engines)


def candidates(
    manifest: Manifest, options: EngineOptions, device: str
) -> tuple[list[Candidate], Reasons]:
    """The candidates that can be tried on a device, best first, and those that cannot."""
    able: list[Candidate] = []
    reasons: Reasons = []
    for candidate in _requested(manifest, options, device):
        why = _why_not(candidate, options)
        if why:
            reasons.append((candidate, why))
        else:
            able.append(candidate)
    return sorted(able, key=_order), reasons


def _requested(manifest: Manifest, options: EngineOptions, device: str) -> Iterator[Candidate]:
    for adapter in ADAPTERS:
        if adapter.device != device or options.engine not in ("auto", adapter.engine):
            continue
        if options.engine == "auto" and adapter.on_request:
            continue
        for entry in manifest.engines:
            if entry.runtime == adapter.runtime and options.precision in ("auto", entry.precision):
                yield Candidate(adapter, entry)


def _why_not(candidate: Candidate, options: EngineOptions) -> str | None:
    """The reason why a candidate cannot compute here; None if it can be tried."""
    entry, on_gpu = candidate.entry, candidate.adapter.device == "cuda"
    # A CPU computes fp16 in fp32, so its parity figures do not hold for a GPU. fp32 in ONNX Runtime
    # is the same everywhere, because TF32 is off.
    same_everywhere = (entry.runtime, entry.precision) == ("onnxruntime", "fp32")
    compared = entry.parity and (not on_gpu or entry.parity.provider.endswith("cuda"))
    is_automatic = (options.engine, options.precision) == ("auto", "auto")
    if is_automatic and not compared and not same_everywhere:
        return "it was not compared with PyTorch on such a device: export the model on one"
    if entry.precision == "int8" and on_gpu:
        return "int8 is made and compared for CPUs"
    if entry.precision == "bf16" and not on_gpu and no_bfloat():
        return no_bfloat()
    if entry.instructions and not integer_kind() and options.precision == "auto":
        return f"it was compared on CPUs with {entry.instructions} or similar instructions"
    if options.probability and entry.runtime in WITHOUT_PROBABILITY:
        return "it gives no probability, which --probability and --known-ratios take"
    return candidate.adapter.absent()


def _order(candidate: Candidate) -> tuple[int, float, int]:
    entry, adapter = candidate.entry, candidate.adapter
    if adapter.device == "cuda":
        rank = ON_GPU.index(entry.precision) if entry.precision in ON_GPU else len(ON_GPU)
        return ADAPTERS.index(adapter), 0.0, rank
    time = math.inf if entry.relative_time is None else entry.relative_time
    return 0, time, ON_CPU.index(entry.precision)


def _open_first(
    folder: Path, manifest: Manifest, options: EngineOptions, device: str
) -> tuple[Engine | None, Reasons]:
    """The best candidate that opens, and the reasons why others did not."""
    able, reasons = candidates(manifest, options, device)
    opens = [(candidate, candidate.adapter.open) for candidate in able]
    if options.rebuild and options.engine != "auto":  # a rebuilt engine was compared with nothing
        opens += [(c, c.adapter.rebuild) for c in able if c.adapter.rebuild]
    unfit = ""
    for candidate, opened in opens:
        try:
            engine = opened(folder, manifest, candidate.entry, options.threads)
        except UnusableError as error:
            reasons.append((candidate, str(error)))
            continue
        except UnfitFileError as error:
            reasons.append((candidate, str(error)))
            unfit = unfit or str(error)
            continue
        if unfit:
            logger.warning(
                "%s. Until then another file computes", unfit, extra={"event": "engine_unfit"}
            )
        time = candidate.entry.relative_time
        logger.info(
            "computing with %s in %s%s%s",
            engine.name,
            engine.precision,
            f": the first choice of {len(able)} that can run here" if len(able) > 1 else "",
            "" if time is None else f" ({time:.2f} of the time of fp32 in ONNX Runtime at export)",
            extra={"event": "engine_chosen", "engine": engine.name, "precision": engine.precision},
        )
        for other, why in reasons:
            logger.debug("%s is skipped: %s", other, why)
        return engine, reasons
    return None, reasons


def _summary(reasons: Reasons) -> str:
    """Each reason once, with the engines that it holds for."""
    by_reason: dict[str, list[str]] = {}
    for candidate, why in reasons:
        by_reason.setdefault(why, []).append(str(candidate))
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items()) or (
        "the model has no engine for it"
    )
