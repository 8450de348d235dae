#!/usr/bin/env bash
# onnxruntime 1.31.1 (CPU package, Linux): the first session makes an identifier of the device and a
# database of events under the home folder, also after onnxruntime.disable_telemetry_events().
# ORT_DISABLE_TELEMETRY=1 in the environment before Python starts leaves the home folder empty. Matters
# where a container's home must stay read-only or a machine must not be told apart. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 2>/dev/null
cd "$work"
cat >session.py <<'PYTHON'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

if "disable" in sys.argv:
    onnxruntime.disable_telemetry_events()
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
session.run(None, {"x": np.ones((1, 4), np.float32)})
PYTHON
left_in_home() { (cd "$1" && find . -type f | sort | paste -sd' ' -); }
mkdir plain disabled variable
HOME=$work/plain venv/bin/python session.py
HOME=$work/disabled venv/bin/python session.py disable
HOME=$work/variable ORT_DISABLE_TELEMETRY=1 venv/bin/python session.py
for name in plain disabled variable; do echo "$name: $(left_in_home $name)"; done
grep -q deviceid <<<"$(left_in_home plain)"
grep -q deviceid <<<"$(left_in_home disabled)"
test -z "$(left_in_home variable)"
