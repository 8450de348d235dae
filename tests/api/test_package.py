"""`import wsseg`: what it gives, and what it does not load."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import wsseg

HEAVY = {"numpy", "torch", "pydicom", "pydantic", "nibabel", "onnxruntime", "typer"}


def loaded(program: str) -> set[str]:
    """The top-level packages that a program has loaded in an interpreter of its own."""
    command = f"{program}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_package_alone_loads_nothing_heavy():
    assert not HEAVY & loaded("import wsseg; dir(wsseg); wsseg.__version__")


def test_models_are_opened_without_torch():
    assert "torch" not in loaded("import wsseg; wsseg.load_model; wsseg.ScanResult")


def test_every_public_name_is_there_and_none_hides_a_package():
    names = dir(wsseg)
    assert {"fit", "export_model", "load_model", "WssegError", "__version__"} <= set(names)
    assert all(getattr(wsseg, name) is not None for name in names)
    assert not {"train", "export", "serve", "imaging", "cli"} & set(names)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'wsseg' has no attribute 'fitt'"):
        wsseg.fitt  # type: ignore[attr-defined]  # noqa: B018


def test_a_package_that_is_missing_is_told_with_the_extra_that_brings_it():
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import wsseg\n"
        "try: wsseg.fit\n"
        "except wsseg.WssegError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "torch is missing: pip install 'wsseg[train]'\n"


def test_the_version_is_that_of_the_installed_package():
    assert wsseg.__version__ == version("wsseg")


def test_the_package_runs_as_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "wsseg", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"wsseg {wsseg.__version__}\n"
