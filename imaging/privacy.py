"""Stops usage reports of libraries, and caches that they would leave in the home folder.

`wsseg` imports this before any of these libraries, because they decide when they are imported.
Observed in onnxruntime 1.31, which keeps a device id and a queue of events and sends them, and in
openvino 2026.4, which keeps a client id and counts every import at a web analytics service. Ray
2.60 sends statistics of the clusters that it starts.
"""

import atexit
import logging
import os
import sys

from wsseg.imaging.scratch import Scratch

_log = logging.getLogger(__name__)

OPT_IN = "WSSEG_TELEMETRY"
"""Environment variable; with the value 1, libraries report as they do by default."""

LIBRARIES = ("onnxruntime", "openvino", "ray")
"""Libraries that would report their use."""

_OPT_OUT = "ORT_DISABLE_TELEMETRY"
_RAY_OPT_IN = "RAY_USAGE_STATS_ENABLED"
_REPORTER = "openvino_telemetry"
_CACHES = {
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
}


def silence() -> None:
    """Stop the libraries' reports, in this process and all that it starts, unless `OPT_IN` is 1.

    A library that was imported before has already decided: that is logged as a warning.
    """
    if os.environ.get(OPT_IN) == "1":
        return
    # Ray decides when it connects to a cluster.
    late = [name for name in reporting() if name in sys.modules and name != "ray"]
    if late:
        _log.warning(
            "%s may report its use, because it was imported before wsseg: import wsseg first",
            " and ".join(late),
        )
    os.environ[_OPT_OUT] = "1"
    os.environ[_RAY_OPT_IN] = "0"
    # A module that is None cannot be imported, and openvino does without this one.
    sys.modules.setdefault(_REPORTER, None)  # type: ignore[arg-type]


def reporting() -> tuple[str, ...]:
    """Those of `LIBRARIES` that may report their use in this process."""
    silent = {
        "onnxruntime": os.environ.get(_OPT_OUT) == "1",
        "openvino": sys.modules.get(_REPORTER, ...) is None,
        "ray": os.environ.get(_RAY_OPT_IN) == "0",
    }
    return tuple(name for name in LIBRARIES if not silent[name])


def keep_caches_private() -> None:
    """Put the caches of libraries into a folder that is removed when this process ends.

    For commands; a program that imports wsseg chooses its own caches. Where the user has named the
    folder of a cache, it stays there.
    """
    unnamed = {name: part for name, part in _CACHES.items() if name not in os.environ}
    try:
        folder = Scratch()
    except OSError:  # nowhere to write: a library that needs a cache reports it itself
        return
    os.environ |= {name: str(folder.path / part) for name, part in unnamed.items()}
    if "MPLCONFIGDIR" in unnamed:
        # Its own fonts are enough, and searching all others takes longer than a plot.
        os.environ.setdefault("MPL_IGNORE_SYSTEM_FONTS", "1")
    atexit.register(lambda: folder.close())  # which also keeps it until then


silence()
