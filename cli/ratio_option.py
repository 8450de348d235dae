"""The option --ratio, as several commands have it."""

import re

from wsseg.imaging.definitions import RatioDefinition
from wsseg.imaging.errors import WssegError

_RATIO = re.compile(r"^(?P<name>[^=]+)=(?P<numerator>[^/]+)/(?P<denominator>[^/]+)$")


def parse_ratio(text: str) -> RatioDefinition:
    """Read `NAME=CLASS/DENOMINATOR`."""
    match = _RATIO.match(text)
    if not match:
        raise WssegError(f"--ratio {text}: expected NAME=CLASS/DENOMINATOR, such as fat=fat/muscle")
    return RatioDefinition(**{key: value.strip() for key, value in match.groupdict().items()})
