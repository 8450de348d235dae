"""Supervision in, network out: cases, marks, loss terms, networks and the training loop."""

import wsseg.imaging.privacy  # noqa: F401 - before any library that it silences
