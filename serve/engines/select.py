"""The engine of a model folder that a run computes with: the one asked for, or the fastest."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from wsseg.imaging.errors import WssegError
from wsseg.serve.engines.base import Engine, EngineName, EngineOptions, UnusableError
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
from wsseg.serve.manifest import EngineFile, Manifest, PrecisionName, RuntimeName

# The runtimes that can compute a model: what each needs, and how it opens an engine.

Open = Callable[[Path, Manifest, EngineFile, int], Engine]


@dataclass(frozen=True)
class Adapter:
    """One way to compute a model.

    engine: by which it is asked for. runtime: whose entries of the manifest it opens. absent: why
    it cannot work on this machine, found without a model, or None. open: raises UnusableError where
    it cannot after all, WssegError for a file that cannot be used. on_request: only taken when
    asked for by name, for it computes files that were judged in another runtime, or never is the
    fastest. rebuild: makes an engine that fits here of one that does not.
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


def _gpu(provider: str) -> Open:
    def opened(folder: Path, manifest: Manifest, entry: EngineFile, _: int) -> Engine:
        return open_onnx_gpu(folder, manifest, entry, provider)

    return opened


ADAPTERS: tuple[Adapter, ...] = (
    Adapter(
        "tensorrt",
        "tensorrt",
        "cuda",
        partial(no_tensorrt, "tensorrt"),
        open_tensorrt,
        rebuild=rebuild_tensorrt,
    ),
    Adapter(
        "tensorrt-rtx",
        "tensorrt_rtx",
        "cuda",
        partial(no_tensorrt, "tensorrt_rtx"),
        open_tensorrt,
        rebuild=rebuild_tensorrt,
    ),
    Adapter("onnxruntime", "onnxruntime", "cuda", partial(no_provider, CUDA), _gpu(CUDA)),
    Adapter(
        "onnxruntime-tensorrt",
        "onnxruntime",
        "cuda",
        partial(no_provider, TENSORRT),
        _gpu(TENSORRT),
        on_request=True,
    ),
    Adapter(
        "onnxruntime-tensorrt-rtx",
        "onnxruntime",
        "cuda",
        partial(no_provider, TENSORRT_RTX),
        _gpu(TENSORRT_RTX),
        on_request=True,
    ),
    Adapter(
        "torch",
        "torch",
        "cuda",
        partial(no_torch, "cuda"),
        partial(open_torch, device="cuda"),
        on_request=True,
    ),
    Adapter("openvino", "openvino", "cpu", no_openvino, open_openvino),
    Adapter("onnxruntime", "onnxruntime", "cpu", lambda: None, open_onnx_cpu),
    Adapter(
        "torch",
        "torch",
        "cpu",
        partial(no_torch, "cpu"),
        partial(open_torch, device="cpu"),
        on_request=True,
    ),
)
"""Fastest first on a GPU; on a CPU the model folder tells."""


logger = logging.getLogger(__name__)

# The order in which precisions are tried where nobody has measured their times.
ON_GPU: tuple[PrecisionName, ...] = ("fp16", "bf16", "fp32")
WITHOUT_PROBABILITY: tuple[RuntimeName, ...] = ("tensorrt", "tensorrt_rtx")
ON_CPU: tuple[PrecisionName, ...] = ("fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True)
class Candidate:
    """An entry of the manifest and the runtime that would compute it."""

    adapter: Adapter
    entry: EngineFile

    def __str__(self) -> str:
        return f"{self.adapter.label} in {self.entry.precision}"


def open_engine(folder: Path, manifest: Manifest, options: EngineOptions) -> Engine:
    """Open the engine that was asked for, or the fastest that agreed with PyTorch.

    "auto" takes no reduced precision without parity figures, nor one whose figures hold for
    integer instructions that this CPU lacks. A GPU comes before the CPU; engines of a CPU come in
    the order of the times that the export measured. What was taken, and what was passed over and
    why, is logged. Raises WssegError where nothing fits, or where CUDA was asked for and does not
    run.
    """
    _require_device(options)
    if options.device != "cpu" and "cuda" in _devices(options.engine):
        engine, reasons = _first(folder, manifest, options, "cuda")
        if engine:
            return engine
        if options.device == "cuda":
            raise WssegError(
                f"CUDA was asked for and does not run here: {_said(reasons)}; "
                "mend that or use the CPU"
            )
        # No GPU is as expected; a GPU that lies idle is slow for no good reason.
        broken = any(candidate.adapter.absent() is None for candidate, _ in reasons)
        level = logging.WARNING if broken else logging.DEBUG
        logger.log(level, "CUDA is not used: %s", _said(reasons), extra={"event": "cuda_not_used"})
        if not any(True for _ in _asked_for(manifest, options, "cpu")) and reasons:
            raise WssegError(f"engine {options.engine} does not run here: {_said(reasons)}")
    engine, reasons = _first(folder, manifest, options, "cpu")
    if engine:
        return engine
    if reasons:
        raise WssegError(f"no engine of {manifest.name} runs here: {_said(reasons)}")
    raise WssegError(_nothing(manifest, options))


def _require_device(options: EngineOptions) -> None:
    devices = _devices(options.engine)
    if options.device != "auto" and options.device not in devices:
        raise WssegError(
            f"engine {options.engine} computes on {' and '.join(sorted(devices))}, not on "
            f"{options.device}: leave out --device or choose another --engine"
        )


def _devices(engine: str) -> set[str]:
    return {adapter.device for adapter in ADAPTERS if engine in ("auto", adapter.engine)}


def candidates(
    manifest: Manifest, options: EngineOptions, device: str
) -> tuple[list[Candidate], list[tuple[Candidate, str]]]:
    """What can be tried on a device, best first, and what cannot, with the reason."""
    able: list[Candidate] = []
    not_able: list[tuple[Candidate, str]] = []
    for candidate in _asked_for(manifest, options, device):
        why = _why_not(candidate, options)
        if why:
            not_able.append((candidate, why))
        else:
            able.append(candidate)
    return sorted(able, key=_order), not_able


def _asked_for(manifest: Manifest, options: EngineOptions, device: str) -> Iterator[Candidate]:
    for adapter in ADAPTERS:
        if adapter.device != device or options.engine not in ("auto", adapter.engine):
            continue
        if options.engine == "auto" and adapter.on_request:
            continue
        for entry in manifest.engines:
            if entry.runtime == adapter.runtime and options.precision in ("auto", entry.precision):
                yield Candidate(adapter, entry)


def _why_not(candidate: Candidate, options: EngineOptions) -> str | None:
    entry = candidate.entry
    wished = (options.engine, options.precision) != ("auto", "auto")
    if not wished and not _compared(candidate):
        return "nothing has compared it with PyTorch on such a device: export it on one"
    if entry.precision == "int8" and candidate.adapter.device == "cuda":
        return "int8 is made and judged for CPUs"
    if entry.precision == "bf16" and candidate.adapter.device == "cpu" and no_bfloat():
        return no_bfloat()
    if entry.instructions and not integer_kind() and options.precision == "auto":
        return f"its figures hold for CPUs with {entry.instructions} or the like"
    if options.probability and entry.runtime in WITHOUT_PROBABILITY:
        return "it gives no probability, which masks are recovered from"
    return candidate.adapter.absent()


def _compared(candidate: Candidate) -> bool:
    """Whether the export held it against PyTorch by the arithmetic that it would compute with here.

    A CPU computes fp16 in fp32, so figures from there say nothing of a GPU. fp32 in ONNX Runtime is
    the same everywhere: TF32 is off.
    """
    entry = candidate.entry
    if (entry.runtime, entry.precision) == ("onnxruntime", "fp32"):
        return True
    on_gpu = candidate.adapter.device == "cuda"
    return entry.parity is not None and (not on_gpu or entry.parity.provider.endswith("cuda"))


def _order(candidate: Candidate) -> tuple[int, float, int]:
    entry, adapter = candidate.entry, candidate.adapter
    if adapter.device == "cuda":
        known = ON_GPU.index(entry.precision) if entry.precision in ON_GPU else len(ON_GPU)
        return ADAPTERS.index(adapter), 0.0, known
    time = math.inf if entry.relative_time is None else entry.relative_time
    return 0, time, ON_CPU.index(entry.precision)


def _first(
    folder: Path, manifest: Manifest, options: EngineOptions, device: str
) -> tuple[Engine | None, list[tuple[Candidate, str]]]:
    """The best candidate that opens, and why others did not."""
    able, reasons = candidates(manifest, options, device)
    opens = [(candidate, candidate.adapter.open) for candidate in able]
    if options.rebuild and options.engine != "auto":  # nothing has compared what is built here
        opens += [(c, c.adapter.rebuild) for c in able if c.adapter.rebuild]
    for candidate, opened in opens:
        try:
            engine = opened(folder, manifest, candidate.entry, options.threads)
        except UnusableError as error:
            reasons.append((candidate, str(error)))
            continue
        _tell(candidate, engine, len(able), reasons)
        return engine, reasons
    return None, reasons


def _tell(
    taken: Candidate, engine: Engine, count: int, reasons: list[tuple[Candidate, str]]
) -> None:
    time = taken.entry.relative_time
    among = f": the first choice of {count} that can run here" if count > 1 else ""
    measured = (
        "" if time is None else f" ({time:.2f} of the time of fp32 in ONNX Runtime at export)"
    )
    logger.info(
        "computing with %s in %s%s%s",
        engine.name,
        engine.precision,
        among,
        measured,
        extra={"event": "engine_chosen", "engine": engine.name, "precision": engine.precision},
    )
    for candidate, why in reasons:
        logger.debug("%s is passed over: %s", candidate, why)


def _said(reasons: list[tuple[Candidate, str]]) -> str:
    """Each reason once, with the engines it holds for."""
    by_reason: dict[str, list[str]] = {}
    for candidate, why in reasons:
        by_reason.setdefault(why, []).append(str(candidate))
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items()) or (
        "the model has no engine for it"
    )


def _nothing(manifest: Manifest, options: EngineOptions) -> str:
    there = ", ".join(sorted({f"{e.runtime} {e.precision}" for e in manifest.engines}))
    wanted = " ".join(part for part in (options.engine, options.precision) if part != "auto")
    return (
        f"model {manifest.name} has no engine for {wanted or 'this machine'} (there: {there}): "
        "export one or choose another --engine or --precision"
    )
