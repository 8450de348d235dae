"""CUDA's own libraries, found among the packages that bring them."""

import contextlib
import io
import logging

logger = logging.getLogger(__name__)


def preload_libraries() -> None:
    """Load what ONNX Runtime needs on a GPU; what could not be loaded shows in the trial run."""
    import onnxruntime

    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it prints what it could not load
        getattr(onnxruntime, "preload_dlls", lambda: None)()
    logger.debug("preloading CUDA libraries said: %s", said.getvalue().strip() or "nothing")
