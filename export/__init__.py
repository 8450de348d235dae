"""Network in, model folder out: the deployable graph, ONNX, TensorRT and the parity gate."""

import wsseg.imaging.privacy  # noqa: F401 - before any library that it silences
