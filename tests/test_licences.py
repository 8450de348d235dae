"""What the constraints install is permissively licensed, apart from exceptions with a reason."""

import re
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

PERMISSIVE = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC"),
    *("MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Unlicense", "Zlib"),
}
"""SPDX identifiers of licences that only ask to be named. LGPL is not among them: a hospital that
passes on a container would have to pass on the means to relink it."""

NAMES = {
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "OSI Approved :: Apache Software License": "Apache-2.0",
    "2-clause BSD": "BSD-2-Clause",
    "BSD 2-Clause License": "BSD-2-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Python Software Foundation License": "PSF-2.0",
}
"""What packages write in place of an SPDX identifier. Which BSD it is makes no difference here."""

FILES = "MPL-2.0 asks for the source of its own changed files alone; it is used unchanged"
NVIDIA = "NVIDIA's licence: free to use, on NVIDIA's GPUs; not in the base install"
EXCEPTIONS = {
    **dict.fromkeys(("certifi", "hypothesis", "pathspec", "tqdm"), FILES),
    r"nvidia-.*": NVIDIA,
    r"tensorrt-rtx.*": NVIDIA,
    "cuda-toolkit": "states no licence; it holds no program, only names NVIDIA's packages above",
}
"""Patterns of names, each with the reason why another licence is accepted."""


def _stated(distribution: Distribution) -> str:
    """The licence of a distribution: SPDX expression, classifiers, or free text, in that order."""
    metadata = distribution.metadata
    if expression := metadata["License-Expression"]:
        return str(expression)
    kinds = [str(each) for each in metadata.get_all("Classifier") or []]
    kinds = [each.rpartition(" :: ")[2] for each in kinds if each.startswith("License :: ")]
    kinds = [each for each in kinds if each != "OSI Approved"]
    if kinds:
        return " AND ".join(NAMES.get(each, each) for each in kinds)
    # Some give the whole text, which names licences of others too: it counts as unknown.
    text = str(metadata["License"] or "").strip()
    return NAMES.get(text, text if len(text) < 100 else "a whole text") or "unknown"


def _permissive(expression: str) -> bool:
    """Whether an expression leaves a choice of permissive licences alone.

    Of a nested expression each licence must be permissive, whichever one may be chosen.
    """
    choices = re.split(r"\s+OR\s+", expression)
    parts = [re.split(r"\s+AND\s+", choice) for choice in choices]
    if "(" in expression:
        parts = [[part.strip("() ") for choice in parts for part in choice]]
    return any(all(part.partition(" WITH ")[0] in PERMISSIVE for part in each) for each in parts)


PINS = {
    canonicalize_name(line.partition("==")[0])
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
}
# Without what a developer has installed besides, such as a fuzzer.
INSTALLED = {
    name: _stated(each)
    for each in distributions()
    if (name := canonicalize_name(each.metadata["Name"])) in PINS
}


def test_everything_installed_is_permissive_or_an_exception_with_a_reason():
    restricted = {
        name: licence
        for name, licence in INSTALLED.items()
        if not _permissive(licence)
        and not any(re.fullmatch(pattern, name) for pattern in EXCEPTIONS)
    }
    assert not restricted, f"GPL, AGPL, LGPL or unknown: {restricted}"


def test_an_exception_is_never_made_for_a_licence_that_reaches_the_rest():
    viral = {name: licence for name, licence in INSTALLED.items() if re.search("GPL", licence)}
    assert not {name for name, licence in viral.items() if not _permissive(licence)}


@pytest.mark.parametrize("pattern", EXCEPTIONS)
def test_every_exception_is_of_a_package_that_is_pinned(pattern):
    assert any(re.fullmatch(pattern, name) for name in PINS)


@pytest.mark.parametrize(
    "licence",
    [
        *("GPL-3.0-or-later", "AGPL-3.0-only", "LGPL-2.1-or-later", "MPL-2.0", "unknown", ""),
        *("MIT AND GPL-2.0-only", "(MIT OR GPL-2.0-only) AND BSD-3-Clause", "a whole text"),
    ],
)
def test_a_licence_that_asks_for_more_is_not_permissive(licence):
    assert not _permissive(licence)


@pytest.mark.parametrize(
    "licence",
    ["MIT", "MIT OR GPL-2.0-only", "Apache-2.0 WITH LLVM-exception AND ISC", "(MIT OR ISC)"],
)
def test_a_choice_or_sum_of_permissive_licences_is_permissive(licence):
    assert _permissive(licence)
