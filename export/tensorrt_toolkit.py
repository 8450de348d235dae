"""Which TensorRT is here, what it can build for, and its messages in our log."""

import logging
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

from wsseg.imaging.errors import WssegError
from wsseg.serve.cuda_driver import this_architecture
from wsseg.serve.tensorrt_build import known_architectures, library

# Architectures of the GPUs clinics buy: RTX 30 and A-series, RTX 40 and L-series, RTX 50.
DEFAULT_ARCHITECTURES = ("sm_86", "sm_89", "sm_120")

logger = logging.getLogger(__name__)


class TensorRTMissingError(WssegError):
    """No TensorRT is installed; everything else of the export is done without it."""


@dataclass(frozen=True)
class Toolkit:
    """A TensorRT that can build here, and for which architectures it was asked to."""

    module: Any
    runtime: Literal["tensorrt", "tensorrt_rtx"]
    architectures: tuple[str, ...]

    @property
    def builder(self) -> str:
        """Name and version, for the manifest."""
        return library(self.module)


def find_toolkit(architectures: tuple[str, ...] = ()) -> Toolkit:
    """The TensorRT to build with; `architectures` such as "sm_89", empty for the usual ones.

    `tensorrt` builds only on and for the GPU it finds, so it is taken where there is one and no
    other was asked for; `tensorrt_rtx` builds for a fixed list without any GPU. Raises
    TensorRTMissingError where neither is installed, WssegError for an unknown architecture.
    """
    here = this_architecture()
    if here and architectures in ((), (here,)):
        module = _installed("tensorrt")
        if module:
            return Toolkit(module, "tensorrt", (here,))
    module = _installed("tensorrt_rtx")
    if module is None:
        raise TensorRTMissingError(
            "TensorRT is not installed, so no engine was built: pip install 'wsseg[trt-rtx]'"
        )
    wanted = architectures or DEFAULT_ARCHITECTURES
    known = known_architectures(module)
    for architecture in wanted:
        if architecture not in known:
            raise WssegError(
                f"TensorRT-RTX {module.__version__} does not build for {architecture!r}: choose "
                f"from {', '.join(known)}, or install tensorrt on a machine with that GPU"
            )
    return Toolkit(module, "tensorrt_rtx", wanted)


def _installed(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise  # present but broken: its own cause is what helps
        return None
