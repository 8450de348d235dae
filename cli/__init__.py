"""The command line: declare, call, show."""

import wsseg.imaging.privacy  # noqa: F401 - before any library that it silences
