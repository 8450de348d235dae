#!/usr/bin/env bash
# ray 2.60.0 with onnxruntime 1.31.1 and openvino 2026.4.1 (CPU): an actor of num_cpus=1 gets
# OMP_NUM_THREADS=1 from Ray, but neither engine heeds it: each takes a thread for every core of the
# machine, so that N actors on N cores make N x N threads. The number must be given to the engine
# (intra_op_num_threads, INFERENCE_NUM_THREADS). Matters to who serves models from Ray and takes
# num_cpus for a bound, as it is for libraries on OpenMP. Needs two cores. 28 November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME=$work ORT_DISABLE_TELEMETRY=1
export RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0  # loopback only
unset OMP_NUM_THREADS
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 \
    openvino==2026.4.1 ray==2.60.0
cd "$work"
venv/bin/python - <<'PYTHON'
import os
import sys

import ray

assert os.cpu_count() > 1, "cannot be seen on one core"
ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")


@ray.remote(num_cpus=1)
class Engine:
    def threads(self):
        sys.modules["openvino_telemetry"] = None  # sends nothing
        import numpy as np
        import onnxruntime
        import openvino
        from onnx import TensorProto, helper

        x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [256, 256]) for n in "xy")
        graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "g", [x], [y])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        stored, data = model.SerializeToString(), np.ones((256, 256), np.float32)
        kept, started = [], {}
        for number in (0, 1):
            before = len(os.listdir("/proc/self/task"))
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = number
            kept.append(
                onnxruntime.InferenceSession(stored, options, providers=["CPUExecutionProvider"])
            )
            kept[-1].run(None, {"x": data})
            # The calling thread works too, so a session of n threads starts n - 1.
            started[number] = len(os.listdir("/proc/self/task")) - before + 1
        core = openvino.Core()
        for config in ({}, {"INFERENCE_NUM_THREADS": 1}):
            compiled = core.compile_model(core.read_model(stored), "CPU", config)
            compiled([data])
            started[str(config)] = compiled.get_property("INFERENCE_NUM_THREADS")
        return os.environ["OMP_NUM_THREADS"], list(started.values())


variable, counted = ray.get(Engine.remote().threads.remote())
plain, bounded, plain_openvino, bounded_openvino = counted
print(f"cores {os.cpu_count()}, OMP_NUM_THREADS in the actor {variable}")
print(f"onnxruntime: threads {plain}, {bounded} by its option")
print(f"openvino: threads {plain_openvino}, {bounded_openvino} by its option")
assert variable == "1" and bounded == bounded_openvino == 1
assert plain > 1 and plain_openvino > 1
PYTHON
