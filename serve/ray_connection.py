"""The connection to a Ray cluster, or one that is started here for a run and ends with it."""

import logging
import math
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from wsseg.imaging.errors import WssegError, missing_packages
from wsseg.serve.engines.hardware import usable_cores

LOCAL = "local"
MOST_CPUS = 4
"""CPUs of a worker, unless the options say how many or no machine has so many."""
STORE_BYTES = 100 << 20
"""Of shared memory for objects, of which a run needs hardly any."""
CONNECT_SECONDS = 10.0
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""With 0, Ray takes the loopback address for its own, which is the default off Linux; otherwise it
listens on all addresses. Read when Ray is imported."""


@dataclass(frozen=True)
class Slots:
    """Room for workers: how many, and the CPUs and GPUs of each."""

    count: int
    cpus: int
    gpus: int


@contextmanager
def connected(address: str, scratch: Path) -> Iterator[ModuleType]:
    """Connect to the cluster at an address, or start one on this machine for the address "local".

    The latter has no dashboard, listens on the loopback address alone, asks for a token that only
    its own processes have, and keeps its files in `scratch`. Raises WssegError for a cluster that
    cannot be reached.
    """
    if address == LOCAL:
        os.environ.setdefault(_LOOPBACK, "0")
        # Without one, Ray makes a token and writes it into the home folder.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        given: dict[str, Any] = {
            "num_cpus": usable_cores(),
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
            "_temp_dir": str(scratch / "ray"),
        }
    elif "://" in address:
        raise WssegError(
            f"--cluster {address}: Ray's client cannot run this; start the command on a machine of "
            "the cluster, with --cluster auto"
        )
    else:
        given = {}
        _check_reachable(address)
    with missing_packages():
        ray = import_module("ray")
    if ray.is_initialized():
        raise WssegError("this process is connected to a Ray cluster already: call ray.shutdown()")
    logging.getLogger("ray").setLevel(logging.ERROR)  # its notices are not for users of wsseg
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                configure_logging=False,
                namespace=f"wsseg-{secrets.token_hex(8)}",
                **given,
            )
        except Exception as error:  # of many kinds, by what is wrong
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise WssegError(f"--cluster {address} cannot be used: {first}") from error
        finally:
            _restore(handlers)
        yield ray
    finally:
        ray.shutdown()
        _restore(handlers)  # else SIGTERM ends the process at once: its handler is not Python's


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _check_reachable(address: str) -> None:
    """Raise WssegError where nothing listens at host:port; Ray would try for many minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise WssegError(
                f"--cluster {address} cannot be reached ({error}): give the address that ray start "
                "printed, or auto on a machine of the cluster"
            ) from error


def slots_of(nodes: Sequence[Mapping[str, Any]], *, cpus: int, device: str) -> Slots:
    """How many workers the machines of a cluster have room for.

    nodes: as Ray lists them. cpus: of each worker; 0 for `MOST_CPUS`, or fewer if no machine has as
    many. Each worker has a GPU, unless no machine has one or the device is cpu. Raises WssegError
    where there is room for none.
    """
    found = [node["Resources"] for node in nodes if node["Alive"]]
    most = max((int(one.get("CPU", 0)) for one in found), default=0)
    cpus = cpus or max(1, min(MOST_CPUS, most))
    gpus = int(device != "cpu" and any(one.get("GPU", 0) >= 1 for one in found))
    if device == "cuda" and not gpus:
        raise WssegError("no machine of the cluster has a GPU: leave --device cuda out")
    by_cpu = [math.floor(one.get("CPU", 0) / cpus) for one in found]
    by_gpu = [math.floor(one.get("GPU", 0)) if gpus else sys.maxsize for one in found]
    count = sum(map(min, by_cpu, by_gpu))
    if not count:
        raise WssegError(
            f"no machine of the cluster has {cpus} CPUs{' and a GPU' if gpus else ''} for a "
            f"worker, at most {most} CPUs: give --cluster-cpus a smaller number"
        )
    return Slots(count, cpus, gpus)


def lost_errors(ray: ModuleType) -> tuple[type[Exception], ...]:
    """What Ray raises for an answer of a worker that has ended, or whose machine has."""
    kinds = ray.exceptions
    return (kinds.RayActorError, kinds.WorkerCrashedError, kinds.OutOfMemoryError)
