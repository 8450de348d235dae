#!/usr/bin/env bash
# onnxruntime 1.31.1: for a model that is given as bytes, the weights stored outside of it (external
# data, a plain file name) are taken from the current folder of the process. Read from a/, run in b/
# that holds a file of the same name and size, the model computes with b's weights without a word;
# in a folder without such a file the error speaks of a path that "escapes working directory". The
# file's path instead of its bytes, or the session's entry
# session.model_external_initializers_file_folder_path, finds the right weights. Matters to who
# reads a model before running it (from an archive, to check its hash) where models lie side by side
# under usual names: the bytes alone do not fix the answers. 28 November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME=$work ORT_DISABLE_TELEMETRY=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1
cd "$work"
venv/bin/python - <<'PYTHON'
import os
import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1024]) for name in "xy")
for folder, weight in (("a", 1), ("b", 2)):
    os.mkdir(folder)
    weights = numpy_helper.from_array(np.full((1, 1024), weight, np.float32), "w")
    add = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph([add], "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(
        model,
        f"{folder}/model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )


def weight_used(model, folder=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if folder:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.zeros((1, 1024), np.float32)})[0][0, 0].item()


home = pathlib.Path("a").absolute()
stored = (home / "model.onnx").read_bytes()
try:
    weight_used(stored)
    raise AssertionError("read without its weights")
except onnxruntime.capi.onnxruntime_pybind11_state.Fail as error:
    print("bytes of a/model.onnx, run in neither:", str(error).split(". ")[1])
    assert "escapes working directory" in str(error)
os.chdir("b")
used = [weight_used(stored), weight_used(str(home / "model.onnx")), weight_used(stored, home)]
print("run in b/ by bytes, by path, by bytes and the folder's entry: weights", used)
assert used == [2.0, 1.0, 1.0]
PYTHON
