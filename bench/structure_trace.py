"""Which product files one command passes through; `bench.structure` starts it in a process.

    PYTHONPATH=CHECKOUT/.typing python -P bench/structure_trace.py CHECKOUT OUT
        [--from FILE] [--until MODULE:NAME] -- ARGUMENTS OF wsseg

Writes a JSON list of files, relative to CHECKOUT. A file counts if one of its functions starts,
ends, or calls another product function, in any thread, while the window is open.
The window opens with the command, or with the first opening of a file of the name FILE, and closes
with the command, or before the first call of the function NAME. Code that runs because a module is
being imported does not count, nor do other processes or the generated methods of data classes.
"""

import argparse
import functools
import importlib
import json
import os
import sys
import threading
from collections.abc import Callable
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOMS = ("imaging", "train", "export", "serve", "cli", "api")


class Window:
    """Notes the product files at work from `open` to `close`, which have an effect once each."""

    def __init__(self, checkout: Path) -> None:
        self._checkout = checkout.resolve()
        self._known: dict[str, str | None] = {}
        self._opened = self._closed = False
        self.files: set[str] = set()

    def open(self) -> None:
        """Begin to note."""
        if not self._opened:
            self._opened = True
            threading.setprofile(self._on_event)
            sys.setprofile(self._on_event)

    def close(self) -> None:
        """Note nothing more."""
        if self._opened:
            self._closed = True
            sys.setprofile(None)
            threading.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, _argument: object) -> None:
        # "call" and "return" also tell that a generator goes on, and that it yields.
        if event not in ("call", "return") or self._closed:
            return
        if self._product_file(frame.f_code) is None:
            return
        self._note(frame)
        if event == "call" and frame.f_back is not None:
            self._note(frame.f_back)

    def _note(self, frame: FrameType) -> None:
        file = self._product_file(frame.f_code)
        # Bodies of modules and classes are not optimised code: they are no functions.
        if file is None or file in self.files or not frame.f_code.co_flags & CO_OPTIMIZED:
            return
        if not self._is_importing(frame):
            self.files.add(file)

    def _is_importing(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code.co_name == "<module>" and self._product_file(frame.f_code) is not None:
                return True
            frame = frame.f_back
        return False

    def _product_file(self, code: CodeType) -> str | None:
        name = code.co_filename
        if name not in self._known:
            file = Path(os.path.realpath(name))
            inside = file.is_relative_to(self._checkout)
            relative = file.relative_to(self._checkout).as_posix() if inside else ""
            self._known[name] = relative if relative.partition("/")[0] in ROOMS else None
        return self._known[name]


def open_with_file(window: Window, name: str) -> None:
    """Open the window when a file of this name is opened for the first time."""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and Path(arguments[0]).name == name:
            window.open()

    sys.addaudithook(watch)


def close_before(window: Window, target: str) -> None:
    """Close the window when the function `target`, MODULE:NAME, is called for the first time."""
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    function: Callable[..., object] = getattr(owner, name)

    @functools.wraps(function)
    def closing(*arguments: object, **options: object) -> object:
        window.close()
        return function(*arguments, **options)

    setattr(owner, name, closing)


def main() -> None:
    """Run the command and write what was at work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--from", dest="first", metavar="FILE")
    parser.add_argument("--until", metavar="MODULE:NAME")
    parser.add_argument("arguments", nargs="+")
    asked = parser.parse_args()
    window = Window(asked.checkout)
    if asked.until:
        close_before(window, asked.until)
    command = importlib.import_module("wsseg.cli.main").main
    sys.argv = ["wsseg", *asked.arguments]
    if asked.first:
        open_with_file(window, asked.first)
    else:
        window.open()
    try:
        command()
    finally:
        window.close()
        asked.out.write_text(json.dumps(sorted(window.files)), encoding="utf-8")


if __name__ == "__main__":
    main()
