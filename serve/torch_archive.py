"""What PyTorch's loader would unpickle or run of a program file, found before it is loaded."""

import io
import json
import pickle
import re
from typing import Any
from zipfile import ZipFile

from wsseg.imaging.errors import WssegError

# All that the export writes: tensors as raw bytes, the graph as JSON. Not here, so refused: state
# in one pickle (`*.pt`), `custom_obj_*` and `opaque_obj_*`, and `data/aotinductor`, machine code.
EXPECTED = re.compile(
    r"data/(weights/(weight_\d+|model_weights_config\.json)"
    r"|constants/(tensor_\d+|model_constants_config\.json)"
    r"|sample_inputs/model\.pt)"
    r"|models/model\.json|extra/.*|archive_(format|version)|byteorder"
    r"|\.data/(version|serialization_id)"
)
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
SAMPLE_INPUTS = "data/sample_inputs/model.pt"


def check_archive(program: bytes, name: str) -> None:
    """WssegError for a program of `torch.export` that holds pickled objects or compiled code.

    Read with the two readers that the loader uses, the second for an older format: another one may
    find other files in the same bytes. What is no such archive raises the readers' errors. The
    loader falls back to plain unpickling where the sample inputs hold more than tensors: here that
    is an error.
    """
    import torch
    from torch.export.pt2_archive import PT2ArchiveReader

    archive: Any = PT2ArchiveReader(io.BytesIO(program))
    with ZipFile(io.BytesIO(program)) as zipped:
        below_root = [file.partition("/")[2] for file in zipped.namelist()]
    for file in [*archive.get_file_names(), *below_root]:
        if not EXPECTED.fullmatch(file):
            raise _refused(name, file)
    for config in CONFIGS:
        for payload in json.loads(archive.read_bytes(config))["config"].values():
            if payload["use_pickle"]:
                raise _refused(name, f"{config}: {payload['path_name']}")
    try:
        torch.load(io.BytesIO(archive.read_bytes(SAMPLE_INPUTS)), weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(name, SAMPLE_INPUTS) from error


def _refused(name: str, where: str) -> WssegError:
    return WssegError(
        f"{name} holds pickled objects or compiled code ({where}), which could run anything on "
        "this machine, and no export of wsseg does: export the model again"
    )
