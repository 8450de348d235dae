"""The exported program in PyTorch, if it is installed: for comparison with the engines."""

import io
import json
import pickle
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import WssegError
from wsseg.serve.engines.base import Prediction, engine_error, first_line
from wsseg.serve.manifest import EngineFile, Manifest, engine_bytes

# All files that the export writes: tensors as raw bytes, the graph as JSON. Others are refused:
# state in one pickle (`*.pt`), `custom_obj_*` and `opaque_obj_*`, and `data/aotinductor`, which is
# machine code.
EXPECTED = re.compile(
    r"data/(weights/(weight_\d+|model_weights_config\.json)"
    r"|constants/(tensor_\d+|model_constants_config\.json)"
    r"|sample_inputs/model\.pt)"
    r"|models/model\.json|extra/.*|archive_(format|version)|byteorder"
    r"|\.data/(version|serialization_id)"
)
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
SAMPLE_INPUTS = "data/sample_inputs/model.pt"

Device = Literal["cpu", "cuda"]


def check_archive(program: bytes, name: str) -> None:
    """WssegError for a program of `torch.export` that holds pickled objects or compiled code.

    The program is read with the two readers that the loader uses, the second for an older format:
    another one may find other files in the same bytes. Bytes that are no such archive raise the
    readers' errors. The loader falls back to plain unpickling if the sample inputs hold more than
    tensors: here that is an error.
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


def no_torch(device: Device) -> str | None:
    """The reason why PyTorch cannot work on the device here; None if it may work."""
    if find_spec("torch") is None:
        return "not installed: pip install 'wsseg[train]'"
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    return None


@dataclass(frozen=True)
class TorchEngine:
    """An engine, see `base.Engine`, over the program that `torch.export` wrote, run eagerly."""

    program: Any
    device: Device
    precision: str
    file: str
    gives_probability: bool = True

    @property
    def name(self) -> str:
        """Runtime and device that really run."""
        return f"torch-{self.device}"

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction:
        """Masks and areas of slices (n, c, H, W); EngineError if the runtime fails."""
        return self.with_probability(pixels)[0]

    def with_probability(
        self, pixels: NDArray[np.float32], /
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """The same, and the probability (n, k, H, W)."""
        masks, pixel_areas, soft_areas, probability, *variance = self._run(pixels)
        return Prediction(masks, pixel_areas, soft_areas, *variance), probability

    def _run(self, pixels: NDArray[np.float32]) -> list[Any]:
        import torch

        try:
            with torch.inference_mode():
                batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)
                return [output.cpu().numpy() for output in self.program(batch)]
        except RuntimeError as error:  # also if the memory is not sufficient
            raise engine_error(error) from error


def full_float32() -> None:
    """Let PyTorch compute float32 on a GPU with its 23 bits, as at export, in this process.

    Convolutions would otherwise use TF32, which has 10 bits.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def open_torch(
    folder: Path, manifest: Manifest, entry: EngineFile, threads: int, *, device: Device
) -> TorchEngine:
    """Open a program file; WssegError if this PyTorch cannot read it.

    threads: threads of PyTorch in this process; 0 leaves the number to it.
    """
    import torch

    try:
        content = engine_bytes(folder, entry)
        check_archive(content, entry.file)
        program = torch.export.load(io.BytesIO(content)).module().to(device)
    except WssegError:
        raise
    except Exception as error:  # the loader's errors share no class below Exception
        raise WssegError(
            f"PyTorch {torch.__version__} cannot load {entry.file} ({entry.builder}): "
            f"{first_line(error)}; export it again"
        ) from error
    if device == "cuda":
        full_float32()
    if threads:
        torch.set_num_threads(threads)
    return TorchEngine(program, device, entry.precision, entry.file)
