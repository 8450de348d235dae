"""Network in, model folder out: the deployable graph, ONNX, TensorRT and the parity gate."""
