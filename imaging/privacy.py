"""What libraries would tell the world, or leave in the home folder, unless somebody stops them.

`wsseg` imports this before any of these libraries, which decide when they are imported. Seen in
onnxruntime 1.31 and openvino 2026.4: the first keeps a device id and a queue of events and sends
them, the second a client id, and counts every import at a web analytics service.
"""

import atexit
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

_log = logging.getLogger(__name__)

OPT_IN = "WSSEG_TELEMETRY"
"""Variable of the environment; with the value 1, libraries report as their makers set them up."""

LIBRARIES = ("onnxruntime", "openvino")
"""Those that would report their use."""

_OPT_OUT = "ORT_DISABLE_TELEMETRY"
_REPORTER = "openvino_telemetry"
_CACHES = {
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
}


def silence() -> None:
    """Stop the libraries' reports, in this process and all that it starts, unless `OPT_IN` is 1.

    A library that was imported before has made up its mind: that is logged as a warning.
    """
    if os.environ.get(OPT_IN) == "1":
        return
    late = [name for name in reporting() if name in sys.modules]
    if late:
        _log.warning(
            "%s may report its use, being imported before wsseg: import wsseg first",
            " and ".join(late),
        )
    os.environ[_OPT_OUT] = "1"
    # A module that is None cannot be imported, and openvino does without this one.
    sys.modules.setdefault(_REPORTER, None)  # type: ignore[arg-type]


def reporting() -> tuple[str, ...]:
    """Those of `LIBRARIES` that may report their use in this process."""
    silent = {
        "onnxruntime": os.environ.get(_OPT_OUT) == "1",
        "openvino": sys.modules.get(_REPORTER, ...) is None,
    }
    return tuple(name for name in LIBRARIES if not silent[name])


def keep_caches_private() -> None:
    """Have libraries keep what they keep for later in a folder that goes with this process.

    For commands; a program that imports wsseg has its caches where it wants them. Also where the
    user has named the folder of a cache, it stays there. Nothing is made before it is needed.
    """
    unnamed = {name: part for name, part in _CACHES.items() if name not in os.environ}
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError:  # nowhere to write: whatever needs a cache is to say so itself
        return
    folder = Path(temporary) / f"wsseg-caches-{os.urandom(8).hex()}"
    os.environ |= {name: str(folder / part) for name, part in unnamed.items()}
    if "MPLCONFIGDIR" in unnamed:
        # Its own fonts are enough for us, and looking at all others takes longer than a plot.
        os.environ.setdefault("MPL_IGNORE_SYSTEM_FONTS", "1")
    atexit.register(_remove, folder, os.getpid())


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a process that was forked from it
        shutil.rmtree(folder, ignore_errors=True)


silence()
