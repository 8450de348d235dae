"""A finished run becomes a model folder: engines that passed the gate, and model.json."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from wsseg.export.engine_tensorrt import (
    DEFAULT_PROFILE,
    EngineBuildError,
    TensorRTMissingError,
    Toolkit,
    build_engine,
    find_toolkit,
)
from wsseg.export.gate import judge_onnx, judge_tensorrt
from wsseg.export.graph import DeployGraph, Precision
from wsseg.export.half_range import LARGEST, largest_value
from wsseg.export.onnx_file import save_onnx, to_onnx, without_probability
from wsseg.export.parity import Standard, Verdict, make_standard
from wsseg.imaging.atomic import atomic_folder
from wsseg.imaging.definitions import Frozen, RatioDefinition
from wsseg.imaging.errors import AllFailedError, WssegError
from wsseg.serve.manifest import FILE_NAME, EngineFile, Fraction, Manifest, Profile, Training
