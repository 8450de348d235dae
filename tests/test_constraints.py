"""What `make demo` and `make test` install: versions that passed, of all that is asked for."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines())


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]


def _asked() -> list[Requirement]:
    """The requirements of the package, its extras and the development groups that hold here."""
    groups = PROJECT["dependency-groups"]
    # In no set that is installed for the tests: `trt` needs a GPU of an older kind, and `fuzz` is
    # for a benchmark.
    parts = [PROJECT["project"]["dependencies"]]
    parts += [EXTRAS[name] for name in EXTRAS if name != "trt"]
    parts += [groups[name] for name in groups if name != "fuzz"]
    lines = [line for part in parts for line in part if isinstance(line, str)]
    asked = [Requirement(line) for line in lines]
    return [r for r in asked if r.name != "wsseg" and (r.marker is None or r.marker.evaluate())]


def test_every_requirement_is_pinned_to_a_version_that_it_allows():
    pins = {canonicalize_name(name): version for name, version in PINS.items()}
    for requirement in _asked():
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not pinned: make constraints"
        assert version in requirement.specifier, f"{requirement} is pinned to {version}"


def test_a_pin_is_a_name_and_a_version_and_nothing_of_the_machine_that_wrote_it():
    assert all(re.fullmatch(r"[\w.-]+", name) for name in PINS)
    assert all(re.fullmatch(r"\d+(\.\w+)*", version) for version in PINS.values())
    assert "wsseg" not in PINS


def _names(lines: list[str]) -> set[str]:
    """The extras of wsseg that requirements such as `wsseg[dicom,node]` or `/source[node]` name."""
    return {name for line in lines for name in re.findall(r"[\w-]+", line.partition("[")[2])}


def test_all_has_every_extra_but_the_one_for_gpus_of_an_older_kind():
    assert _names(EXTRAS["all"]) == EXTRAS.keys() - {"all", "trt"}


def test_the_image_has_extras_that_are_there():
    (line,) = re.findall(r'"(/source\[.*\])"', (ROOT / "Dockerfile").read_text("utf-8"))
    assert _names([line]) <= EXTRAS.keys()  # pip only warns of others
