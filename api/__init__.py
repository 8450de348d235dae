"""From area ratios and a few marked pixels to a medical image segmenter that a hospital can run.

`fit` trains on a table of cases, `export_model` turns the run into a self-contained model folder,
and `load_model` opens such a folder to segment arrays and to measure folders of scans. Every name
is imported when it is first used: `import wsseg` alone loads neither numpy nor torch, and
`load_model` never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import wsseg.imaging.privacy  # noqa: F401 - before any library that it silences
from wsseg.imaging.errors import missing_packages

__version__ = "0.1.0"

_HOMES = {
    "Agreement": "wsseg.agreement",
    "Failure": "wsseg.imaging.errors",
    "Measurement": "wsseg.model",
    "Model": "wsseg.model",
    "Run": "wsseg.runs",
    "ScanResult": "wsseg.results",
    "SliceResult": "wsseg.results",
    "WssegError": "wsseg.imaging.errors",
    "agree": "wsseg.agreement",
    "cross_validate": "wsseg.runs",
    "export_model": "wsseg.runs",
    "fit": "wsseg.runs",
    "load_model": "wsseg.model",
}

if TYPE_CHECKING:
    from wsseg.agreement import Agreement as Agreement
    from wsseg.agreement import agree as agree
    from wsseg.imaging.errors import Failure as Failure
    from wsseg.imaging.errors import WssegError as WssegError
    from wsseg.model import Measurement as Measurement
    from wsseg.model import Model as Model
    from wsseg.model import load_model as load_model
    from wsseg.results import ScanResult as ScanResult
    from wsseg.results import SliceResult as SliceResult
    from wsseg.runs import Run as Run
    from wsseg.runs import cross_validate as cross_validate
    from wsseg.runs import export_model as export_model
    from wsseg.runs import fit as fit
else:  # a type checker that saw this function would accept any name

    def __getattr__(name: str) -> Any:
        """A public name; WssegError where a package that it needs is not installed."""
        if name not in _HOMES:
            raise AttributeError(f"module 'wsseg' has no attribute {name!r}")
        with missing_packages():
            return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, for completion in an interpreter."""
    return sorted([*_HOMES, "__version__"])
