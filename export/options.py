"""What a user asks of an export."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from wsseg.export.engine_onnx import OnnxPrecision
from wsseg.export.engine_tensorrt import DEFAULT_PROFILE
from wsseg.export.quantize.ranges import Method
from wsseg.imaging.definitions import Frozen, RatioDefinition
from wsseg.serve.manifest import Fraction, Profile


class ExportOptions(Frozen):
    """What to make of a run.

    name: of the model, else the output folder's. precisions: of the ONNX files. torch: the graph
    as a PyTorch program too. trt: build
    TensorRT engines too; gpu_arch: for these architectures, such as "sm_89" (empty: this machine's
    GPU if `tensorrt` is installed, else the usual ones of TensorRT-RTX); profile: input shapes they
    take. ratios: in place of the run's, empty keeps them. thresholds: one a class, else
    the run's. calibration: cases.csv or folder of images that int8 is calibrated by, on at most
    `calibration_images` slices, with ranges set by `calibration_method`. output_stride: in
    place of the network's, see `stride.at_stride_16`. overwrite: a model in the output folder gives
    way.
    """

    name: str = ""
    precisions: Annotated[tuple[OnnxPrecision, ...], Field(min_length=1)] = ("fp32", "fp16")
    torch: bool = False
    trt: bool = False
    gpu_arch: tuple[str, ...] = ()
    profile: Profile = DEFAULT_PROFILE
    ratios: tuple[RatioDefinition, ...] = ()
    thresholds: tuple[Fraction, ...] = ()
    calibration: Path | None = None
    calibration_images: PositiveInt = 128
    calibration_method: Method = "percentile"
    output_stride: Literal[16] | None = None
    overwrite: bool = False
