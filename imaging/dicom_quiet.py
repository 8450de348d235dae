"""Keeps pydicom and its decoders off the terminal: their messages may quote header values."""

import logging
import threading
import warnings
from pathlib import Path
from typing import Self, TextIO

logger = logging.getLogger(__name__)

_LIBRARIES = ("pydicom", "PIL", "openjpeg", "rle", "jpeg_ls", "pylibjpeg", "gdcm")
_MODULES = rf"({'|'.join(_LIBRARIES)})(\.|$)"


class Quiet:
    """A context in which the libraries' warnings become debug lines without their text.

    Warning filters belong to the whole process, so threads share one change of them: the first
    one in makes it, the last one out takes it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._level = logging.NOTSET
        self._caught: warnings.catch_warnings[None] = warnings.catch_warnings()

    def __enter__(self) -> Self:
        with self._lock:
            if self._depth == 0:
                self._silence()
            self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._caught.__exit__(None, None, None)
                logging.getLogger("pydicom").setLevel(self._level)

    def _silence(self) -> None:
        library = logging.getLogger("pydicom")
        self._level = library.level
        library.setLevel(logging.CRITICAL + 1)
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.filterwarnings("always", module=_MODULES)
        show = warnings.showwarning

        def note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if set(_LIBRARIES) & set(Path(filename).parts):
                logger.debug("%s at %s:%d", category.__name__, Path(filename).name, lineno)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = note


quiet = Quiet()
