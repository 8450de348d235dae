"""The structure of the code in several checkouts: sizes, imports, and the files that jobs use.

    git worktree add --detach /tmp/old COMMIT
    python -m bench.structure /tmp/old [CHECKOUT ...] [--names] [--tests ROUNDS]

Prints a table with a column for each checkout; a single one is compared with this one. `--names`
lists what the figures of the last checkout stand for, `--tests` adds the processor time of the
whole test suites, which take turns. The four rows of files at work come from real jobs on generated
data, and the docstring of `structure_trace.py` says what counts there. The other rows are counted
like this:

- Lines of a file are all its lines. Files that hold only a docstring have a row of their own, and
  are left out of "under 60 lines" and "a single importer".
- A function is any `def`, nested ones too. Its body goes from the first statement after the
  docstring to its last line.
- A private helper is a function or method named `_name`. Its uses are the places in its own file
  that name it: as a variable, as an attribute of anything, or in an import.
- An import arrow leads from one module to another of the same room, wherever in the file the import
  stands. In the second figure a sub-package counts as one module.
- A circle is a set of modules that reach one another by imports. The first figure leaves out those
  inside functions and under TYPE_CHECKING.
- Importers of a file, and modules that tests import, are found by import statements alone: what is
  started by name (`python -m`) has no importer.
"""

import argparse
import ast
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from pydicom import examples
from pydicom.uid import generate_uid

from bench.markdown import table
from bench.structure_trace import ROOMS

HERE = Path(__file__).resolve().parent.parent
TRACE = Path(__file__).with_name("structure_trace.py")
SHORT = 60
SIDE = 48
TESTS_FAILED = 1
"""The code that pytest ends with when all tests ran and some failed."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Graph = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Module:
    """A file of the product. path: relative to the checkout, `train/losses/area.py`."""

    path: str
    lines: int
    tree: ast.Module = field(repr=False)

    @property
    def room(self) -> str:
        """The top-level folder."""
        return self.path.partition("/")[0]

    @cached_property
    def name(self) -> str:
        """What the file is imported as; the room `api` is the package `wsseg` itself."""
        parts = [part for part in self.path.removesuffix(".py").split("/") if part != "__init__"]
        return ".".join(["wsseg", *parts[parts[0] == "api" :]])

    @property
    def node(self) -> str:
        """The module, or the sub-package that holds it."""
        return "/".join(self.path.split("/")[:2])

    @property
    def is_docstring(self) -> bool:
        """Whether the file holds nothing but a docstring, or nothing."""
        return all(_is_docstring(node) for node in self.tree.body)

    @cached_property
    def functions(self) -> tuple[Function, ...]:
        """All functions, methods and nested functions."""
        return tuple(node for node in ast.walk(self.tree) if isinstance(node, Function))

    def helpers_used_once(self) -> Iterator[str]:
        """Names of the private helpers that one place in this file names."""
        uses = Counter(_named(self.tree))
        owners = (
            node for node in ast.walk(self.tree) if isinstance(node, ast.Module | ast.ClassDef)
        )
        for node in (node for owner in owners for node in owner.body):
            if not isinstance(node, Function):
                continue
            if node.name.startswith("_") and not node.name.endswith("__") and uses[node.name] == 1:
                yield node.name


def read_product(checkout: Path) -> tuple[Module, ...]:
    """The product's files, room by room."""
    return tuple(
        _parsed(path, checkout)
        for room in ROOMS
        for path in sorted((checkout / room).rglob("*.py"))
    )


def _parsed(path: Path, checkout: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    relative = path.relative_to(checkout).as_posix()
    return Module(relative, len(text.splitlines()), ast.parse(text))


def body_lines(function: Function) -> int:
    """Lines from the first statement after the docstring to the end."""
    body = [node for node in function.body if not _is_docstring(node)]
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _named(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name


def imported(nodes: Iterable[ast.AST], known: Iterable[str]) -> frozenset[str]:
    """Which of the `known` modules these import statements name."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` names the module, `from module import name` does not.
            longer = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (longer & set(known)) or {node.module}
    return frozenset(names & set(known))


def import_graph(modules: Iterable[Module], *, lazy: bool) -> Graph:
    """What each module imports, by name; lazy: imports inside functions and for types too."""
    by_name = {module.name: module for module in modules}
    return {
        name: imported(ast.walk(module.tree) if lazy else _at_once(module.tree), by_name) - {name}
        for name, module in by_name.items()
    }


def _at_once(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run while the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _at_once(child)


def circles(graph: Graph) -> list[tuple[str, ...]]:
    """Sets of two and more modules that reach one another."""
    reach: dict[str, set[str]] = {name: set(others) for name, others in graph.items()}
    for middle in graph:
        for name in graph:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    groups = {
        tuple(sorted(other for other in reach[name] if name in reach[other]))
        for name in graph
        if name in reach[name]
    }
    return sorted(groups)


def arrows(modules: Iterable[Module], graph: Graph, room: str) -> tuple[int, int]:
    """Imports inside a room: between its modules, and with each sub-package as one module."""
    inside = {module.name: module for module in modules if module.room == room}
    pairs = [(name, other) for name in inside for other in graph[name] if other in inside]
    nodes = {(inside[name].node, inside[other].node) for name, other in pairs}
    return len(pairs), sum(start != end for start, end in nodes)


@dataclass
class Report:
    """Figures by row, as text, and what some of them stand for."""

    rows: dict[str, str] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, row: str, value: object, names: Iterable[str] = ()) -> None:
        """Add a row."""
        self.rows[row] = f"{value:.1f}" if isinstance(value, float) else str(value)
        if listed := sorted(names):
            self.names[row] = listed


def report_sizes(report: Report, modules: tuple[Module, ...]) -> None:
    """Files, functions and helpers."""
    code = [module for module in modules if not module.is_docstring]
    lines = [module.lines for module in modules]
    functions = [function for module in modules for function in module.functions]
    once = [f"{module.path} {name}" for module in modules for name in module.helpers_used_once()]
    short = [f"{module.path} {module.lines}" for module in code if module.lines < SHORT]
    report.add("product files", len(modules))
    report.add("of these, only a docstring", len(modules) - len(code))
    report.add("lines a file: median, max", _spread(lines, 50, 100))
    report.add(f"files under {SHORT} lines", len(short), short)
    report.add("product lines", sum(lines))
    report.add("functions", len(functions))
    report.add("private helpers used once", len(once), once)
    report.add("the same, per 100 functions", 100 * len(once) / max(1, len(functions)))
    bodies = [body_lines(function) for function in functions]
    whole = [(function.end_lineno or 0) - function.lineno + 1 for function in functions]
    report.add("lines a function's body: median, 90 %, max", _spread(bodies, 50, 90, 100))
    report.add("the same with signature and docstring", _spread(whole, 50, 90, 100))


def _spread(values: list[int], *percentiles: int) -> str:
    return ", ".join(f"{np.percentile(values, at):.0f}" for at in percentiles) if values else "-"


def report_imports(report: Report, modules: tuple[Module, ...]) -> None:
    """Arrows, circles and importers."""
    graph = import_graph(modules, lazy=True)
    for room in ROOMS:
        between, collapsed = arrows(modules, graph, room)
        report.add(
            f"import arrows in {room}: modules, sub-packages as one", f"{between}, {collapsed}"
        )
    at_once, in_all = circles(import_graph(modules, lazy=False)), circles(graph)
    report.add(
        "import circles: while importing, with imports in functions",
        f"{len(at_once)}, {len(in_all)}",
        map(" ".join, in_all),
    )
    importers = Counter(other for others in graph.values() for other in others)
    single = [
        module.path for module in modules if importers[module.name] == 1 and not module.is_docstring
    ]
    report.add("files with a single importer", len(single), single)


def report_tests(report: Report, modules: tuple[Module, ...], checkout: Path) -> None:
    """How large the tests are, and how much of the layout they know."""
    texts = [
        path.read_text(encoding="utf-8") for path in sorted((checkout / "tests").rglob("*.py"))
    ]
    known = {module.name for module in modules}
    named = [imported(ast.walk(ast.parse(text)), known) for text in texts]
    report.add("product modules that tests import", len(frozenset().union(*named)))
    report.add("lines of tests", sum(len(text.splitlines()) for text in texts))


def report_work(report: Report, checkout: Path, data: Path) -> None:
    """Files at work in four real jobs of this checkout."""
    with tempfile.TemporaryDirectory() as scratch:
        run, model = Path(scratch, "run"), Path(scratch, "model")
        settings = f"--network mobilenet_v2 --size {SIDE} --epochs 6 --batch 8 --accelerator cpu"
        training = ["train", data / "cases.csv", "--out", run, *settings.split()]
        window = ["--from", "cases.csv", "--until", "torch:Tensor.backward"]
        jobs: dict[str, list[object]] = {
            "cases.csv to the first loss": [*window, "--", *training],
            "run to model.json": ["--", "export", run, "--out", model],
        }
        for kind in ("dicom", "pictures"):
            table_file = Path(scratch, f"{kind}.csv")
            inference = ["infer", data / kind, "--model", model, "--report", table_file]
            jobs[f"a folder of {kind} to ratios.csv"] = ["--", *inference]
        for job, arguments in jobs.items():
            out = Path(scratch, "files.json")
            run_in(checkout, ["-P", TRACE, checkout, out, *arguments])
            files = json.loads(out.read_text(encoding="utf-8"))
            rooms = Counter(file.partition("/")[0] for file in files)
            shares = ", ".join(f"{room} {rooms[room]}" for room in ROOMS if rooms[room])
            report.add(f"files at work, {job}", f"{len(files)} ({shares})", files)


def run_in(checkout: Path, arguments: Iterable[object], codes: Sequence[int] = (0,)) -> str:
    """Run Python on the packages of a checkout, which need not be the installed one.

    Returns what it printed. SystemExit if it ends with a code that is not among `codes`.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout / ".typing"),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
    }
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, cwd=checkout, capture_output=True, text=True, check=False
    )
    if done.returncode not in codes:
        told = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        raise SystemExit(f"{checkout}: {' '.join(command)} ended with {done.returncode}: {told}")
    return done.stdout


def write_data(folder: Path) -> None:
    """48 pictures of a disc with ratios, every other one with marks, and a DICOM series of 3."""
    for name in ("pictures", "marks", "dicom"):
        (folder / name).mkdir()
    rows, columns = np.mgrid[:SIDE, :SIDE]
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "ratio", "marks", "split"])
        for index in range(48):
            random = np.random.default_rng(index)
            centre, radius = random.uniform(16, 32, 2), random.uniform(6, 12)
            distance = np.hypot(rows - centre[0], columns - centre[1])
            picture = 60 + 120 * (distance <= radius) + random.normal(0, 10, distance.shape)
            image, mark = f"pictures/{index}.png", f"marks/{index}.png" if index % 2 else ""
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / image)
            if mark:
                Image.fromarray((distance <= radius / 2).astype(np.uint8)).save(folder / mark)
            ratio = round(float((distance <= radius).mean()), 4)
            writer.writerow([image, ratio, mark, "val" if index % 6 == 5 else "train"])
    for index in range(3):
        dataset = deepcopy(examples.ct)
        dataset.InstanceNumber, dataset.ImagePositionPatient = index, [0, 0, 5 * index]
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(index)])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(folder / "dicom" / f"{index}.dcm")


def time_tests(checkout: Path) -> tuple[float, str]:
    """Processor seconds, of the user and the system, of the whole test suite, and how it ended."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The expression and the number of processes override what the checkout presets.
    suite = ["-m", "pytest", "-q", "-n", "0", "-m", "not gpu"]
    told = run_in(checkout, suite, codes=(0, TESTS_FAILED))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, told.splitlines()[-1].strip("= ")


def report_time(report: Report, turns: Sequence[tuple[float, str]]) -> None:
    """The median of several turns of the tests."""
    report.add("processor seconds of all tests", f"{median(seconds for seconds, _ in turns):.0f}")
    report.add("the tests ended with", turns[-1][1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", type=Path, nargs="+", metavar="CHECKOUT")
    parser.add_argument("--names", action="store_true", help="list what the last column counts")
    parser.add_argument("--tests", type=int, default=0, metavar="ROUNDS", help="time the tests")
    asked = parser.parse_args()
    checkouts = asked.checkouts if len(asked.checkouts) > 1 else [*asked.checkouts, HERE]
    reports = {checkout.resolve(): Report() for checkout in checkouts}
    with tempfile.TemporaryDirectory() as data:
        write_data(Path(data))
        for checkout, report in reports.items():
            modules = read_product(checkout)
            report_sizes(report, modules)
            report_imports(report, modules)
            report_tests(report, modules, checkout)
            report_work(report, checkout, Path(data))
    turns = [{checkout: time_tests(checkout) for checkout in reports} for _ in range(asked.tests)]
    for checkout, report in reports.items() if turns else ():
        report_time(report, [turn[checkout] for turn in turns])
    columns = list(reports.values())
    rows = [[row, *(report.rows[row] for report in columns)] for row in columns[0].rows]
    print("\n".join(table(["", *map(_commit, reports)], rows)))
    if asked.names:
        for row, names in columns[-1].names.items():
            print(f"\n{row}:", *names, sep="\n  ")


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
