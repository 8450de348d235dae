"""A model that thresholds grey values, and scans made on the spot: no trained network needed."""

import csv
import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from wsseg.imaging import FileRef, Geometry, RatioDefinition, Scan, ScanRef, SliceId, Window
from wsseg.imaging.definitions import FOREGROUND
from wsseg.imaging.legend import JSON_NAME, TABLE_NAME
from wsseg.serve.engines.base import EngineError, Prediction
from wsseg.serve.infer import Summary, infer
from wsseg.serve.manifest import FILE_NAME, EngineFile, Manifest, Parity, Training
from wsseg.serve.options import InferOptions

CLASSES = ("bright", "brightest")
LEVELS = np.array([128.0, 200.0], np.float32)  # grey value where a class begins
SOFTNESS = 4.0
RATIOS = (
    RatioDefinition(name="bright", numerator="bright"),
    RatioDefinition(name="brightest in bright", numerator="brightest", denominator="bright"),
    RatioDefinition(name="brightest of all", numerator="brightest", denominator=FOREGROUND),
)
PARITY = Parity(
    slices=1,
    provider="onnxruntime-cpu",
    mask_agreement=1,
    probability_difference=0,
    ratio_difference=0,
    ratio_difference_mean=0,
    mask_iou=1,
)
BROKEN_VALUE = -1.0
VERSION_ONLY = b"\x08\x0a"
"""An ONNX file with its version and nothing else."""
RATIOS_PER_SLICE = len(RATIOS)

Picture = NDArray[np.uint8]


def threshold_graph(
    channels: int = 1,
    names: Sequence[str] = (),
    *,
    probability: bool = True,
    variance: bool = True,
) -> bytes:
    """An ONNX file with the agreed inputs and outputs: probability = sigmoid((x - level) / 4).

    Without `probability` and `variance` it has the outputs of models that early versions
    exported.
    """
    mask, pixel, soft = names or ("mask", "pixel_area", "soft_area")
    constants = {
        "levels": LEVELS.reshape(1, 2, 1, 1),
        "softness": np.float32(SOFTNESS),
        "half": np.float32(0.5),
        "plane": np.array([2, 3], np.int64),
        "across": np.array([1], np.int64),
        "one": np.float32(1),
    }
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "across"], ["grey"]),
        helper.make_node("Sub", ["grey", "levels"], ["above"]),
        helper.make_node("Div", ["above", "softness"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probability"]),
        helper.make_node("GreaterOrEqual", ["probability", "half"], ["inside"]),
        helper.make_node("Cast", ["inside"], [mask], to=TensorProto.UINT8),
        helper.make_node("Cast", ["inside"], ["counted"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["counted", "plane"], [pixel], keepdims=0),
        helper.make_node("ReduceSum", ["probability", "plane"], [soft], keepdims=0),
        helper.make_node("Sub", ["one", "probability"], ["other"]),
        helper.make_node("Mul", ["probability", "other"], ["product"]),
        helper.make_node("ReduceSum", ["product", "plane"], ["area_variance"], keepdims=0),
    ]
    seen = helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 2, "h", "w"])
    varied = helper.make_tensor_value_info("area_variance", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(
        nodes,
        "threshold",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", channels, "h", "w"])],
        [
            helper.make_tensor_value_info(mask, TensorProto.UINT8, ["n", 2, "h", "w"]),
            helper.make_tensor_value_info(pixel, TensorProto.INT64, ["n", 2]),
            helper.make_tensor_value_info(soft, TensorProto.FLOAT, ["n", 2]),
            *([seen] if probability else []),
            *([varied] if variance else []),
        ],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def make_manifest(content: bytes = b"", **changes: Any) -> Manifest:
    """A manifest of the threshold model; keywords replace fields."""
    engine = EngineFile(
        file="model.onnx",
        runtime="onnxruntime",
        precision="fp32",
        sha256=hashlib.sha256(content).hexdigest(),
        parity=PARITY,
    )
    fields: dict[str, Any] = {
        "name": "threshold",
        "classes": CLASSES,
        "ratios": RATIOS,
        "channels": 1,
        "window": Window(low=0, high=255),
        "network_size": 64,
        "thresholds": (0.5, 0.5),
        "training": Training(
            preset="none",
            network="none",
            weights="none",
            cases=0,
            cases_sha256="",
            epochs=0,
            seed=0,
        ),
        "engines": (engine,),
        "wsseg_version": "0",
        "created": "2026-01-01T00:00:00Z",
    }
    return Manifest(**(fields | changes))


def write_model(folder: Path, content: bytes | None = None, **changes: Any) -> Path:
    """A model folder with an engine file of this content (default: the threshold graph)."""
    content = threshold_graph(changes.get("channels", 1)) if content is None else content
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    manifest = make_manifest(content, **changes)
    (folder / FILE_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")
    return folder


@pytest.fixture
def log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """What wsseg logs, also where a command that ran before keeps it from the root logger."""
    monkeypatch.setattr(logging.getLogger("wsseg"), "propagate", True)
    return caplog


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the threshold model for grey slices."""
    return write_model(tmp_path_factory.mktemp("model") / "model")


def picture(seed: int, shape: tuple[int, ...] = (24, 40)) -> Picture:
    """Dark noise with a bright block and a brightest one in it, of other sizes for each seed."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 100, shape, np.uint8)
    top, left = random.integers(2, 8, 2)
    pixels[top : top + 6 + seed, left : left + 14] = 150
    pixels[top : top + 4, left : left + 3 + 2 * seed] = 230
    return pixels


def write_pictures(folder: Path, count: int, shape: tuple[int, ...] = (24, 40)) -> Path:
    """Write pictures as PNG files 000.png, 001.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.fromarray(picture(index, shape)).save(folder / f"{index:03d}.png")
    return folder


def make_scan(
    pixels: NDArray[Any], name: str = "scan", geometry: Geometry | None = None, **fields: Any
) -> Scan:
    """A scan in memory, as a reader would give it."""
    ref = ScanRef("picture", (FileRef(Path(name), name),))
    slices = tuple(SliceId(name) for _ in pixels)
    values = np.asarray(pixels, np.float32)
    return Scan(values, geometry or Geometry(), slices, fields.pop("ref", ref), **fields)


class ThresholdEngine:
    """Computes what the graph computes; fails on a slice whose first pixel is BROKEN_VALUE."""

    name, precision, file = "numpy", "fp32", "model.onnx"
    gives_probability = True

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.most: int | None = None  # a larger batch finds no memory

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction:
        return self.with_probability(pixels)[0]

    def with_probability(
        self, pixels: NDArray[np.float32], /
    ) -> tuple[Prediction, NDArray[np.float32]]:
        self.shapes.append(pixels.shape)
        if self.most and len(pixels) > self.most:
            raise MemoryError
        if (pixels[:, 0, 0, 0] == BROKEN_VALUE).any():
            raise EngineError("this slice breaks the engine")
        above = (pixels.mean(1, keepdims=True) - LEVELS.reshape(1, 2, 1, 1)) / SOFTNESS
        probability = 1 / (1 + np.exp(-above.astype(np.float64)))
        masks = (probability >= 0.5).astype(np.uint8)
        soft = probability.sum((2, 3)).astype(np.float32)
        areas = masks.sum((2, 3), dtype=np.int64)
        return Prediction(masks, areas, soft), probability.astype(np.float32)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Pictures of two sizes and a NIfTI volume in one folder."""
    folder = tmp_path / "scans"
    write_pictures(folder / "large", 3, (30, 26))
    write_pictures(folder / "small", 5)
    write_volume(folder / "volume.nii.gz", np.stack([picture(index) for index in range(4)]))
    return folder


def write_volume(path: Path, slices: np.ndarray) -> None:
    """Write (slice, row, column) as a NIfTI volume with pixels of 0.8 x 0.5 mm, 3 mm apart."""
    affine = np.diag([-0.5, -0.8, 3.0, 1.0])  # towards right and front, as DICOM rows run
    nib.save(nib.Nifti1Image(slices.transpose(2, 1, 0), affine), path)


def run(model: Path, report: Path, *inputs: Path, **options: Any) -> Summary:
    # Without a process for the engine, which takes half a second to start.
    given: dict[str, Any] = {"device": "cpu", "isolate": False} | options
    settings = InferOptions(model=model, report=report, **given)
    return infer(list(inputs), settings)


def label_maps(folder: Path) -> list[Path]:
    """The label maps of a folder, without the files that say what their numbers mean."""
    return sorted(path for path in folder.iterdir() if path.name not in (JSON_NAME, TABLE_NAME))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, strict=True))


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """No file can grow beyond so many bytes, as on a disk that is full."""
    resource = pytest.importorskip("resource", reason="limits of a process are those of POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def failures(report: Path) -> list[dict[str, str]]:
    return rows(report.with_name("ratios.failures.csv"))
