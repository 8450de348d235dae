"""Medical images in, label maps out: find, read, order, geometry, write."""

import wsseg.imaging.privacy  # noqa: F401 - before any library that it silences
