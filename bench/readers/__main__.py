"""Which programs read which kinds of DICOM segmentations, as a table.

    python -m bench.readers

Makes segmentations with wsseg-infer, installs the readers into a temporary environment (torch, for
MONAI, comes from the environment that this runs in) and compares the places of the pixels that
each gives with those of the source. "right": all pixels of all classes are where they are in the
source. "at": where the slices of SEEN_MM come out, in this order.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from bench.markdown import table
from bench.readers.make import KINDS, SEEN_MM, SPACING_MM, Kind, places, write_segmentation
from bench.timing import where

PACKAGES = (
    "pydicom==3.0.2",
    "highdicom==0.28.2",
    "dcmqi==1.5.7",
    "SimpleITK==2.5.7",
    "dcm2niix==1.0.20260724",
    "nibabel==5.4.2",
)
WITHOUT_DEPENDENCIES = "monai==1.6.1"
SHAPES = ((16, 24), (18, 21))
LOST = (1.0, 1.0)  # mm, where a reader takes no pixel size from the file
MOST_LAST = 16  # pixels: eight of a byte that was not read, missing or beside the mask
# Memory that a reader forgot to fill gets this value, so that equal runs give equal tables.
PERTURB = {"MALLOC_PERTURB_": "165"}

Points = list[list[float]]
Plane = frozenset[tuple[float, float]]


def install(folder: Path) -> Path:
    """An environment with the readers; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PACKAGES], check=True)
    subprocess.run([*pip, "--no-deps", WITHOUT_DEPENDENCIES], check=True)
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # Its packages come last: only those that the environment lacks are taken from there.
    (Path(own) / "torch.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return python


def by_height(places_found: dict[str, Points]) -> dict[tuple[str, float], Plane]:
    """The (x, y) of pixels, by segment and z."""
    found: dict[tuple[str, float], set[tuple[float, float]]] = defaultdict(set)
    for number, points in places_found.items():
        for x, y, z in points:
            found[number, z].add((x, y))
    return {key: frozenset(plane) for key, plane in found.items()}


@dataclass(frozen=True)
class Match:
    """Where the planes of an expected mask (segment, z) are among those found, and what is left."""

    places: dict[tuple[str, float], tuple[str, float]]
    wrong: int


def match(found: dict[str, Points], expected: dict[str, Points]) -> Match:
    """The likest plane to each one expected; wrong: pixels in one of them alone, or in none."""
    seen, wanted = by_height(found), by_height(expected)
    keys, others = list(wanted), list(seen)
    likeness = np.array(
        [
            [len(seen[at] & wanted[key]) / len(seen[at] | wanted[key]) for at in others]
            for key in keys
        ]
    )
    chosen = zip(*linear_sum_assignment(likeness, maximize=True), strict=True)
    nearest = {keys[row]: others[column] for row, column in chosen}
    wrong = sum(len(seen[at] ^ wanted[key]) for key, at in nearest.items())
    left = set(seen) - set(nearest.values())
    return Match(nearest, wrong + sum(len(seen[at]) for at in left))


def describe(answer: dict[str, Any], kind: Kind, shape: tuple[int, int], classes: int) -> list[str]:
    """What is wrong with what a reader made of a segmentation, in a few words each."""
    if "error" in answer:
        # Nothing of the file's path.
        message = str(answer["error"]).splitlines()[-1].rpartition(", ")[2]
        return [f"refused: {message.partition(' for ')[0].removeprefix('sitk::ERROR: ')}"]
    found = answer["places"]
    matches = {
        spacing: match(found, places(kind, shape, classes, spacing))
        for spacing in (SPACING_MM, LOST)
    }
    spacing = min(matches, key=lambda each: matches[each].wrong)
    best = matches[spacing]
    moved = any(key[1] != at[1] for key, at in best.places.items())
    volumes = {
        number: {best.places[key][0] for key in best.places if key[0] == number}
        for number in map(str, range(1, classes + 1))
    }
    faults = {
        "slices of both classes mixed": any(len(each) > 1 for each in volumes.values()),
        "both classes in one stack": classes > 1 and len(set.union(*volumes.values())) == 1,
        f"at {_heights(best)} mm": moved,
        "pixel size lost": spacing == LOST,
        "last pixels undefined": 0 < best.wrong < MOST_LAST,
        f"{best.wrong} pixels wrong": best.wrong >= MOST_LAST,
    }
    said = [fault for fault, is_so in faults.items() if is_so]
    return [*(said or ["right"]), *([answer["remark"]] if answer["remark"] else [])]


def _heights(best: Match) -> str:
    by_class: dict[str, list[float]] = defaultdict(list)
    for (number, _), (_, z) in best.places.items():
        by_class[number].append(z)
    return " and ".join(map(_listed, by_class.values()))


def _listed(heights: list[float]) -> str:
    return ", ".join(f"{z:g}" for z in heights)


def cell(by_shape: dict[tuple[int, int], list[str]]) -> str:
    """What is said of all sizes, and what of one alone."""
    common = [
        said for said in by_shape[SHAPES[0]] if all(said in each for each in by_shape.values())
    ]
    own = {shape: [said for said in each if said not in common] for shape, each in by_shape.items()}
    alone = [
        f"{', '.join(each)} ({rows} x {columns})" for (rows, columns), each in own.items() if each
    ]
    return "; ".join(common + alone)


def rows(found: dict[str, Any]) -> Iterator[list[str]]:
    """The rows of the table, a kind of segmentation each."""
    for name, kind in KINDS.items():
        for classes in kind.classes:
            row = [name, str(classes)]
            for answers in found.values():
                said = {
                    shape: describe(answers[_name(name, shape, classes)], kind, shape, classes)
                    for shape in SHAPES
                }
                row.append(cell(said))
            yield row


def _name(kind: str, shape: tuple[int, int], classes: int) -> str:
    return f"{kind} {shape[0]} {shape[1]} {classes}"


def main() -> None:
    """Make, read, compare and print."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        paths = {}
        for label, kind in KINDS.items():
            for shape in SHAPES:
                for classes in kind.classes:
                    key = _name(label, shape, classes)
                    folder = work / key
                    folder.mkdir()
                    made = write_segmentation(folder, kind, shape=shape, classes=classes)
                    paths[key] = str(made)
        done = subprocess.run(
            [install(work / "environment"), Path(__file__).with_name("inside.py")],
            input=json.dumps(paths),
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | PERTURB,
        )
        found = json.loads(done.stdout)
    header = ["kind", "classes", *found]
    print(*table(header, rows(found)), sep="\n")
    seen = " and ".join(_listed([float(z) for z in heights]) for heights in SEEN_MM)
    versions = ", ".join((*PACKAGES, WITHOUT_DEPENDENCIES)).replace("==", " ")
    print(f"\nClasses seen at {seen} mm; pixels of {SPACING_MM} mm; {versions}")
    print(where())


if __name__ == "__main__":
    main()
