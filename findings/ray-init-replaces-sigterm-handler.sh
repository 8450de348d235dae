#!/usr/bin/env bash
# ray 2.60.0, Linux: ray.init() replaces the SIGTERM handler of the calling process without a word
# (by one that leaves with sys.exit(15)). ray.shutdown() sets SIGTERM back to the system's default
# below Python, so that the process then dies at once: no handler runs, not even one set after
# ray.init(), and no `finally`, though signal.getsignal() still shows a handler. It must be set
# after ray.init() and once more after ray.shutdown(). Matters to services that are stopped by
# SIGTERM (systemd, Kubernetes, Slurm) and have work to finish or to tidy up. 28 November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME=$work RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0  # loopback only
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ray==2.60.0
cd "$work"
cat >service.py <<'PYTHON'
import os
import signal
import sys
import time

import ray


def stop(number, frame):
    print("own handler,", end=" ", flush=True)
    sys.exit(0)


set_at, shut_down = sys.argv[1].split("-"), sys.argv[2] == "shut"
if "before" in set_at:
    signal.signal(signal.SIGTERM, stop)
ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
if "after" in set_at:
    signal.signal(signal.SIGTERM, stop)
if shut_down:
    ray.shutdown()
    assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, None)
if "again" in set_at:
    signal.signal(signal.SIGTERM, stop)
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
finally:
    print("finally", flush=True)
PYTHON
while IFS=: read -r ray set_at expected; do
    status=0
    ran=$(venv/bin/python service.py "$set_at" "$ray" 2>log) || status=$?
    echo "Ray $ray, handler set $set_at: exit status $status, ran: $ran"
    test "$status${ran:+ $ran}" = "$expected"
done <<'CASES'
open:before:15 finally
open:after:0 own handler, finally
shut:before:143
shut:after:143
shut:after-again:0 own handler, finally
CASES
