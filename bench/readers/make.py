"""Segmentations of a series whose classes are seen on some slices only, made by wsseg-infer."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from wsseg.imaging.definitions import RatioDefinition, Window
from wsseg.serve.infer import infer
from wsseg.serve.manifest import FILE_NAME, EngineFile, Manifest, Parity, Training
from wsseg.serve.options import InferOptions

HEIGHTS_MM = (0, 2, 4, 6, 8, 10)
SEEN_MM = ((2, 4, 8), (4, 6, 10))  # by class
VALUES = (150, 230)  # of each class's own pixels
BOTH = 190  # of pixels of both classes
CENTRES, WIDTH = (165, 215), 35  # of the values of each class: 130 to 200 and 180 to 250
SPACING_MM = (0.8, 0.5)  # between rows, between columns
NAMES = ("first", "second")
FIRST_MM = (-10.0, -20.0)


@dataclass(frozen=True)
class Kind:
    """A kind of segmentation: options of wsseg-infer, heights of its slices, numbers of classes.

    overlap: whether the classes overlap.
    """

    options: dict[str, object] = field(default_factory=dict)
    heights_mm: tuple[int, ...] = HEIGHTS_MM
    classes: tuple[int, ...] = (1, 2)
    overlap: bool = False


KINDS = {
    "BINARY": Kind(),
    "BINARY, overlapping": Kind(classes=(2,), overlap=True),
    "BINARY, no slice at 6 mm": Kind(heights_mm=(0, 2, 4, 8, 10)),
    "BINARY, sparse": Kind({"seg_sparse": True}),
    "LABELMAP": Kind({"seg_type": "labelmap"}),
}


def planes(kind: Kind, shape: tuple[int, int], classes: int) -> NDArray[np.int16]:
    """The slices (slice, row, column); each class touches a corner, and no two slices are equal."""
    stack = np.zeros((len(kind.heights_mm), *shape), np.int16)
    for index, height in enumerate(kind.heights_mm):
        if height in SEEN_MM[0]:
            stack[index, -3:, -4 - height // 2 :] = VALUES[0]
        if classes > 1 and height in SEEN_MM[1]:
            stack[index, : 2 + height // 2, :5] = VALUES[1]
            if kind.overlap and height in SEEN_MM[0]:
                stack[index, -3:, -3:] = BOTH
    return stack


def places(
    kind: Kind, shape: tuple[int, int], classes: int, spacing: tuple[float, float] = SPACING_MM
) -> dict[str, list[list[float]]]:
    """By segment number, the LPS mm of its pixels."""
    found = {}
    stack = planes(kind, shape, classes)
    for number, centre in enumerate(CENTRES[:classes], start=1):
        index, row, column = np.nonzero(np.abs(stack - centre) < WIDTH)
        height = np.array(kind.heights_mm, float)[index]
        x, y = FIRST_MM[0] + column * spacing[1], FIRST_MM[1] + row * spacing[0]
        found[str(number)] = np.stack([x, y, height], axis=1).round(3).tolist()
    return found


def write_series(folder: Path, heights_mm: Sequence[int], stack: NDArray[np.int16]) -> None:
    """Write the slices as CT images; every series has the same UIDs."""
    folder.mkdir(parents=True)
    study, series, space = (generate_uid(entropy_srcs=["readers", name]) for name in "abc")
    for index, (height, plane) in enumerate(zip(heights_mm, stack, strict=True)):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID = CTImageStorage
        image.SOPInstanceUID = generate_uid(entropy_srcs=["readers", str(index)])
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.FrameOfReferenceUID = space
        image.Modality, image.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.InstanceNumber = index + 1
        image.ImagePositionPatient = [*FIRST_MM, float(height)]
        image.ImageOrientationPatient = [1.0, 0, 0, 0, 1, 0]
        image.PixelSpacing, image.SliceThickness = list(SPACING_MM), 2.0
        image.Rows, image.Columns = plane.shape
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.PixelRepresentation = 1
        image.RescaleSlope, image.RescaleIntercept = 1, 0
        image.PixelData = plane.tobytes()
        image.save_as(folder / f"{index}.dcm", enforce_file_format=True)


def write_model(folder: Path, classes: int) -> Path:
    """A model that finds each class by its grey value."""
    constants = {
        "centres": np.array(CENTRES[:classes], np.float32).reshape(1, -1, 1, 1),
        "width": np.float32(WIDTH),
        "plane": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Sub", ["pixels", "centres"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["distance"]),
        helper.make_node("Less", ["distance", "width"], ["inside"]),
        helper.make_node("Cast", ["inside"], ["mask"], to=TensorProto.UINT8),
        helper.make_node("Cast", ["inside"], ["counted"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["counted", "plane"], ["pixel_area"], keepdims=0),
        helper.make_node("Cast", ["pixel_area"], ["soft_area"], to=TensorProto.FLOAT),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "grey values",
        [tensor("pixels", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [
            tensor("mask", TensorProto.UINT8, ["n", classes, "h", "w"]),
            tensor("pixel_area", TensorProto.INT64, ["n", classes]),
            tensor("soft_area", TensorProto.FLOAT, ["n", classes]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    engine = EngineFile(
        file="model.onnx",
        runtime="onnxruntime",
        precision="fp32",
        sha256=hashlib.sha256(content).hexdigest(),
        parity=Parity(
            slices=1,
            provider="onnxruntime-cpu",
            mask_agreement=1,
            probability_difference=0,
            ratio_difference=0,
            ratio_difference_mean=0,
            mask_iou=1,
        ),
    )
    manifest = Manifest(
        name="values",
        classes=NAMES[:classes],
        ratios=(RatioDefinition(name="first", numerator="first"),),
        channels=1,
        window=Window(low=0, high=255),
        network_size=64,
        thresholds=(0.5,) * classes,
        training=Training(
            preset="none",
            network="none",
            weights="none",
            cases=0,
            cases_sha256="",
            epochs=0,
            seed=0,
        ),
        engines=(engine,),
        wsseg_version="0",
        created="2026-01-01T00:00:00Z",
    )
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / FILE_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")
    return folder


def write_segmentation(folder: Path, kind: Kind, *, shape: tuple[int, int], classes: int) -> Path:
    """Write a series and measure it; returns the segmentation."""
    write_series(folder / "scans", kind.heights_mm, planes(kind, shape, classes))
    options = InferOptions(
        model=write_model(folder / "model", classes),
        report=folder / "ratios.csv",
        device="cpu",
        seg=folder / "seg",
        **kind.options,  # type: ignore[arg-type]
    )
    infer([folder / "scans"], options)
    (path,) = (folder / "seg").iterdir()
    return path
