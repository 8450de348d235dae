"""Other programs on the same slices, each run by a script inside an environment of its own.

A script imports nothing of wsseg, and nothing of this package but `measured`.
"""
