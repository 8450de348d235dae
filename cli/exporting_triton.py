"""The Triton part of an export: what was asked for, and one line on what was written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from wsseg.cli.settings import settings
from wsseg.export.engine_onnx import FILES
from wsseg.export.options import ExportOptions
from wsseg.export.triton import TritonOptions, add_version, check_request
from wsseg.imaging.errors import WssegError
from wsseg.serve.model_folder import load_model


@dataclass(frozen=True)
class TritonRequest:
    """A model repository to add the exported model to, and how it is to be served."""

    repository: Path
    options: TritonOptions


def triton_request(
    repository: Path | None, flags: dict[str, Any], *, name: str, export: ExportOptions
) -> TritonRequest | None:
    """The request of the command line, checked before the export; None where there is none.

    flags: fields of TritonOptions, None where not given. name: of the model. export: tells which
    engines there will be, and the largest batch.
    """
    if repository is None:
        if any(value is not None for value in flags.values()):
            raise WssegError(
                "--triton-version, --triton-engine and --triton-device are for a model "
                "repository: add --triton DIR"
            )
        return None
    options = settings(TritonOptions, None, {"max_batch": export.profile.maximum[0]} | flags)
    check_request(repository, name, options)
    _check_engine(options.engine, export)
    return TritonRequest(repository, options)


def _check_engine(file: str, export: ExportOptions) -> None:
    """Names of TensorRT engines hold the GPU that they are built for: those are not known yet."""
    planned = [FILES[precision] for precision in dict.fromkeys(export.precisions)]
    if not file or file in planned or (export.trt and file.endswith(".engine")):
        return
    raise WssegError(
        f"--triton-engine {file}: this export makes {', '.join(planned)}"
        f"{' and TensorRT engines (.engine)' if export.trt else ''} for Triton"
    )


def publish_to_triton(model: Path, request: TritonRequest) -> None:
    """Add the model folder to the repository and say so."""
    version = add_version(model, request.repository, request.options)
    manifest, _ = load_model(version)
    engine = manifest.engines[0]
    typer.echo(
        f"wrote {version}: {engine.runtime} {engine.precision}, for tritonserver "
        f"--model-repository={request.repository}"
    )
