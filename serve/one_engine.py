"""One entry of a manifest as a running engine, for those who compare all of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from wsseg.serve.choose import open_engine
from wsseg.serve.engine import Engine
from wsseg.serve.engine_options import EngineOptions
from wsseg.serve.manifest import EngineFile, Manifest


def open_entry(
    folder: Path, manifest: Manifest, entry: EngineFile, options: EngineOptions
) -> Engine:
    """Open exactly this engine of a model folder, whatever `options.precision` says.

    Raises WssegError where it does not run on this machine.
    """
    only = manifest.model_copy(update={"engines": (entry,)})
    engine: Any = entry.runtime.replace("_", "-")
    asked = replace(options, engine=engine, precision=entry.precision)
    return open_engine(folder, only, asked)
