"""TensorRT engines from ONNX files: built, and kept for the next run."""

import hashlib
import json
import logging
import os
import stat
import sys
from pathlib import Path
from typing import Any

from wsseg.imaging.atomic import atomic
from wsseg.imaging.errors import SomeFailedError
from wsseg.serve.contract import INPUT, OUTPUTS
from wsseg.serve.manifest import Profile
from wsseg.serve.tensorrt_log import listener_of

RTX = "tensorrt_rtx"

logger = logging.getLogger(__name__)


class EngineBuildError(SomeFailedError):
    """TensorRT is there and could not build or load an engine; the message quotes it."""


def library(trt: Any) -> str:
    """Name and version of a TensorRT module: an engine runs only in the version that built it."""
    return f"{trt.__name__} {trt.__version__}"


def known_architectures(trt: Any) -> dict[str, Any]:
    """Architectures that TensorRT-RTX can build for, by the name nvcc gives them."""
    members = trt.ComputeCapability.__members__
    return {f"sm_{n.removeprefix('SM')}": m for n, m in members.items() if n.startswith("SM")}


def build_engine(trt: Any, model: bytes, architecture: str, profile: Profile) -> bytes:
    """An engine for one architecture from an ONNX model, strongly typed: types are the model's.

    `tensorrt` builds for the GPU of this machine alone, `tensorrt_rtx` for any that it knows.
    Raises EngineBuildError with TensorRT's own words.
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
    config.add_optimization_profile(_shapes(builder, network.get_input(0).shape[1], profile))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineBuildError(f"{library(trt)}, {architecture}: {listener.last_error}")
    return bytes(plan)


def read_network(trt: Any, builder: Any, model: bytes) -> tuple[Any, Any]:
    """The network of an ONNX model and its parser, which holds the network's weights.

    Without the probability: an engine of TensorRT writes every output in every run.
    """
    listener = listener_of(trt)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, listener)
    if not parser.parse(model):
        problems = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise EngineBuildError(f"{library(trt)} does not take the ONNX file: {problems}")
    outputs = [network.get_output(place) for place in range(network.num_outputs)]
    for output in outputs:
        if output.name not in OUTPUTS:
            network.unmark_output(output)
    return network, parser


def kept_engine(
    trt: Any, model: bytes, architecture: str, profile: Profile, cache: Path
) -> tuple[bytes, bool]:
    """The engine of an ONNX model from the cache, built first where it is not there.

    Also whether it was built now. Its name follows from all that an engine depends on: the model,
    which has its precision, the library's version, the architecture and the profile.
    """
    told = [hashlib.sha256(model).hexdigest(), library(trt), architecture, profile.model_dump()]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    for file in cache.glob(f"{key}-*.engine"):
        plan = file.read_bytes()
        if file.stem == f"{key}-{_digest(plan)}" and _is_own(file):  # whole, and nobody else's
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
    """Whether only this user or the system's own can have written a file: a plan is code."""
    if sys.platform == "win32":  # where a user's folders are closed to others
        return True
    others = stat.S_IWGRP | stat.S_IWOTH
    told = [file.stat(), file.parent.stat()]
    return all(one.st_uid in (os.getuid(), 0) and not one.st_mode & others for one in told)


def _digest(plan: bytes) -> str:
    return hashlib.sha256(plan).hexdigest()[:32]


def engine_cache() -> Path:
    """Where rebuilt engines are kept: WSSEG_CACHE, else the user's own cache folder."""
    given = os.environ.get("WSSEG_CACHE")
    home = os.environ.get("XDG_CACHE_HOME")
    folder = Path(given) if given else (Path(home) if home else Path.home() / ".cache") / "wsseg"
    return folder / "engines"


def _shapes(builder: Any, channels: int, profile: Profile) -> Any:
    shapes = builder.create_optimization_profile()
    bounds = [
        (n, channels, h, w) for n, h, w in (profile.minimum, profile.optimum, profile.maximum)
    ]
    shapes.set_shape(INPUT, *bounds)
    return shapes
