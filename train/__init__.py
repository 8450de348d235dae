"""Supervision in, network out: cases, marks, loss terms, networks and the training loop."""
