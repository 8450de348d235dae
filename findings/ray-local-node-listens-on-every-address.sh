#!/usr/bin/env bash
# ray 2.60.0, Linux: ray.init(address="local", _node_ip_address="127.0.0.1") replaces the loopback
# by the machine's network address, and the processes that it starts for this one program listen on
# every address. With RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 set before the import (the switch is named
# for other systems) the same call keeps everything on 127.0.0.1. Matters where a program uses Ray
# for the cores of one machine only, on a shared network or behind a firewall that asks. Needs a
# network address. 28 November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME=$work RAY_USAGE_STATS_ENABLED=0
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ray==2.60.0
cd "$work"
cat >listens.py <<'PYTHON'
import collections
import ipaddress
import os
import struct

import ray

context = ray.init(
    address="local",
    _node_ip_address="127.0.0.1",
    num_cpus=1,
    include_dashboard=False,
    logging_level="ERROR",
)


def parent(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[1]
    except OSError:
        return None


# The listening sockets of this process and of all that descend from it.
ours = {str(os.getpid())}
for _ in range(5):
    ours |= {name for name in os.listdir("/proc") if name.isdigit() and parent(name) in ours}
sockets = set()
for process in ours:
    for descriptor in os.listdir(f"/proc/{process}/fd"):
        try:
            sockets.add(os.readlink(f"/proc/{process}/fd/{descriptor}"))
        except OSError:
            pass  # closed meanwhile
counts = collections.Counter()
for table in ("/proc/net/tcp", "/proc/net/tcp6"):
    with open(table) as file:
        rows = [line.split() for line in file][1:]
    for row in rows:
        if row[3] != "0A" or f"socket:[{row[9]}]" not in sockets:
            continue
        words = row[1].split(":")[0]
        packed = b"".join(
            struct.pack("=I", int(words[i : i + 8], 16)) for i in range(0, len(words), 8)
        )
        address = ipaddress.ip_address(packed)
        address = getattr(address, "ipv4_mapped", None) or address
        loopback, every = address.is_loopback, address.is_unspecified
        counts["loopback" if loopback else "every address" if every else "network address"] += 1
node = context.address_info["node_ip_address"]
print("node on the loopback:", node == "127.0.0.1", " listening sockets:", dict(counts))
if os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == "0":
    assert node == "127.0.0.1" and set(counts) == {"loopback"}
else:
    assert node != "127.0.0.1" and counts["every address"] > 0
PYTHON
venv/bin/python listens.py
RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 venv/bin/python listens.py
