"""TensorRT's messages in our log."""

import logging
from functools import cache
from typing import Any

logger = logging.getLogger(__name__)


@cache
def listener_of(trt: Any) -> Any:
    """TensorRT's messages in our log; one per library, which keeps to the first it was given."""
    severity = trt.ILogger.Severity
    errors = (severity.INTERNAL_ERROR, severity.ERROR)

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = "it gave no reason"

        def log(self, level: Any, message: str) -> None:
            # Its warnings are about how a network is written: nothing a user of wsseg can change.
            logger.log(logging.ERROR if level in errors else logging.DEBUG, "%s", message)
            if level in errors:
                self.last_error = message

    return Listener()
