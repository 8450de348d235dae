"""The process that fuzzes one target: `python -m bench.reliability.fuzz.child TARGET ...`.

The other arguments are libFuzzer's. It ends at the first input that raises anything, hangs or
takes too much memory.
"""

import logging
import sys

import atheris

INSTRUMENTED = ["wsseg", "pydicom", "nibabel", "nrrd", "pynetdicom"]
"""Of whose code coverage guides the mutations."""


def main() -> None:
    """Fuzz the target that the first argument names."""
    name, arguments = sys.argv[1], sys.argv[2:]
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=INSTRUMENTED):
        from bench.reliability.fuzz.targets import TARGETS

        target = TARGETS[name]()
        atheris.Setup([sys.argv[0], *arguments], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
