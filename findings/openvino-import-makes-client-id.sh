#!/usr/bin/env bash
# openvino 2026.4.1 with the openvino-telemetry 2025.2.0 that it depends on: `import openvino` alone
# writes a client id under the home folder and looks a host name up, in a process of its own (so a
# guard on sockets in the importing process sees nothing). With openvino_telemetry made not importable
# first, both stay away and inference still runs. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 openvino==2026.4.1 openvino-telemetry==2025.2.0 \
    2>/dev/null
cd "$work"
# Counts the look-ups by process and refuses them, so that nothing leaves the machine.
cat >watch.py <<'PYTHON'
import os
import sys


def hook(event, arguments):
    if event == "socket.getaddrinfo":
        with open("lookups", "a") as file:
            file.write(f"{os.getpid()}\n")
        raise OSError("no look-ups here")


sys.addaudithook(hook)
if "off" in sys.argv:
    sys.modules["openvino_telemetry"] = None
import time

import numpy as np
import openvino
from openvino import opset13

x = opset13.parameter([1, 4], openvino.Type.f32)
compiled = openvino.compile_model(openvino.Model([opset13.relu(x)], [x]), "CPU")
assert compiled(np.float32([[1, -1, 2, 0]]))[0].tolist() == [[1, 0, 2, 0]]
time.sleep(2)
pids = open("lookups").read().split() if os.path.exists("lookups") else []
print("look-ups:", len(pids), " of them in this process:", pids.count(str(os.getpid())))
assert (len(pids) == 0) == ("off" in sys.argv) and str(os.getpid()) not in pids
PYTHON
mkdir plain off
for name in plain off; do
    rm -f lookups
    HOME=$work/$name venv/bin/python watch.py $name
    echo "$name: left under the home folder: $(cd $name && find . -type f | sort | paste -sd' ' -)"
done
test -s plain/intel/openvino_ga_cid
test -z "$(ls -A off)"
