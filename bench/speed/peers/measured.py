"""What a peer's script says of itself: one line of JSON, the last that it prints.

Run inside the peers' environments: the standard library only.
"""

import functools
import json
import time
from collections.abc import Callable
from typing import Any


class Stopwatch:
    """Adds up the seconds that wrapped calls take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time counted."""

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def say(*, slices: int, network: Stopwatch) -> None:
    """Print what only the peer itself knows: slices done, seconds in its network."""
    print(json.dumps({"slices": slices, "seconds_network": network.seconds}), flush=True)
