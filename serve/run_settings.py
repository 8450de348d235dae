"""All that the rows and outputs of every scan of a run depend on, so that a journal can tell."""

import json
from pathlib import Path

from wsseg.imaging.errors import WssegError
from wsseg.imaging.hashed_names import salt_print
from wsseg.serve.journal import file_digest
from wsseg.serve.manifest import Manifest
from wsseg.serve.options import InferOptions
from wsseg.serve.report import Provenance
from wsseg.serve.shards import FOLDER_OF

_OPTIONS = (
    "batch",
    "threads",
    "skip",
    "strict",
    "coverage",
    "pixel_mm",
    "seg_type",
    "seg_sparse",
    "probability_type",
    "store",
    "sheet",
    "ignore_columns",
)
"""Options that change rows or files. Numbers of threads and of slices in a batch are among them,
because an engine may add the same numbers in another order."""


def run_settings(
    options: InferOptions, manifest: Manifest, provenance: Provenance, salt: bytes | None = None
) -> dict[str, str]:
    """Text for each setting, by its name, equal only where results are.

    salt: under which sources are hashed, if they are.

    Raises WssegError for a table of known ratios that cannot be read.
    """
    found = {name: json.dumps(getattr(options, name)) for name in _OPTIONS}
    found |= {f"{FOLDER_OF}{name}": str(path.absolute()) for name, path in _folders(options)}
    found |= dict(vars(provenance))
    found["model.json"] = manifest.model_dump_json()
    found["source"] = options.source if salt is None else f"{options.source} {salt_print(salt)}"
    if options.known_ratios:
        try:
            found["known_ratios"] = file_digest(options.known_ratios)
        except OSError as error:
            raise WssegError(f"{options.known_ratios}: {error.strerror}") from error
    return found


def _folders(options: InferOptions) -> list[tuple[str, Path]]:
    folders = list(options.chosen_folders.items())
    return [*folders, ("recovered masks", options.recovered)] if options.recovered else folders
